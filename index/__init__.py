"""Vectors in, rows and scores out: the two-pass index. Knows no text, no HTTP and no settings file."""
