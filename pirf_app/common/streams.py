"""Random streams by seed and purpose."""

import numpy as np

# First part of a stream's key: what is drawn from it. Streams with different keys are independent.
SOLVER_DATA, SAMPLING_NOISE, TRAINING_DATA, TRAINING_NOISE, POOL_NOISE, VALIDATION_NOISE, BATCHES = range(7)


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random stream of `seed` for a purpose and an index."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def derived_seed(seed: int, *key: int) -> int:
    """A seed from 2^62 to 2^63 - 1 for a purpose and an index: training draws from these, so that every smaller seed
    is held out."""
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0] >> 2) + 2**62


def sample_noise(n: int, shape: tuple[int, ...], seed: int, purpose: int, dtype: type = np.float64) -> np.ndarray:
    """Standard normal noise `[n, *shape]`; row k depends only on (seed, purpose, k), not on n."""
    return np.stack([generator(seed, purpose, k).standard_normal(shape, dtype) for k in range(n)])
