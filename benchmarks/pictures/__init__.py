"""The pictures of docs/how-it-works.md, drawn from real vectors: `python -m benchmarks pictures`."""
