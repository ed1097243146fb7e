"""A k-means start and moving averages are an online k-means: how good a one, on real data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.data import camera
from sklearn.cluster import MiniBatchKMeans
from sklearn.datasets import load_digits

from bottlenecks.quantization import kmeans, quantize, start_codebook, update_codebook

BATCH = 256


def digits():
    return np.float32(load_digits().data) / 16


def patches():
    """5000 patches of 4 x 4 pixels from the photograph of the cameraman."""
    windows = np.lib.stride_tricks.sliding_window_view(np.float32(camera()) / 255, (4, 4))
    rng = np.random.default_rng(0)
    return windows[rng.integers(0, 509, 5000), rng.integers(0, 509, 5000)].reshape(-1, 16)


def inertia(rows, centres):
    """Sum of squared distances to the nearest centre, float64."""
    rows, centres = np.float64(rows), np.float64(centres)
    return np.sum(np.min(np.sum((rows[:, None] - centres) ** 2, axis=-1), axis=1))


@functools.partial(jax.jit, static_argnames=("codes", "decay"))
def follow(key, batches, codes, decay):
    def step(state, batch):
        index = quantize(batch, state.codebook).index
        return update_codebook(state, batch, index, decay=decay), None

    start = kmeans(key, batches[0], codes)
    state = start_codebook(start.codebook, count=start.counts)
    return jax.lax.scan(step, state, batches)[0].codebook


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("rows", "codes", "steps", "decay"),
    # The averages look back 1 / (1 - decay) batches, so that a larger decay needs a longer stream.
    [(digits, 10, 100, 0.99), (patches, 32, 300, 0.9)],
)
def test_within_one_percent_of_minibatch_kmeans_on_the_same_stream(rows, codes, steps, decay, seed):
    rows = rows()
    draw = np.random.default_rng(seed).integers(0, len(rows), (steps, BATCH))
    theirs = MiniBatchKMeans(codes, n_init=1, random_state=seed, batch_size=BATCH)
    for batch in draw:
        theirs.partial_fit(rows[batch])
    ours = follow(jax.random.key(seed), jnp.asarray(rows[draw]), codes, decay)
    assert inertia(rows, ours) <= 1.01 * inertia(rows, theirs.cluster_centers_)
