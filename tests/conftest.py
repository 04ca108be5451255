"""Fixtures that several test files share."""

import numpy as np
import pytest

from index.vectors import Float32, normalise


def clustered(n: int, dim: int, seed: int) -> Float32:
    """Unit vectors with a falling spectrum and clusters, as real embeddings have: (n, dim) float32."""
    rng = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim)) ** -0.5
    centres = rng.standard_normal((12, dim))
    points = centres[rng.integers(0, 12, n)] + 0.8 * rng.standard_normal((n, dim))
    return normalise((points * spectrum).astype(np.float32))


@pytest.fixture
def make_vectors():
    return clustered
