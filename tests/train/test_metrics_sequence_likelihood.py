"""log p(x) of sequences: against a float64 loop, and against a likelihood that is known."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.autoencoder import Autoencoder
from models.gaussian_vae import normal_per_example
from models.likelihoods import Gaussian
from models.topographic_vae import TopographicCapsules
from train.errors import UserError
from train.metrics.sequence_likelihood import (
    sequence_likelihood_evaluator,
    sequence_log_weights,
)

S, C, D, VARIANCE = 3, 2, 2, 0.5
UNITS, PIXELS = C * D, 4
KEY = jax.random.key(4)


class Linear(nn.Module):
    """Posteriors linear in the image, `[frames, encoders, 2, units]`."""

    encoders: int

    @nn.compact
    def __call__(self, x, *, train):
        h = nn.Dense(self.encoders * 2 * UNITS, name="out")(x.reshape(len(x), -1))
        return h.reshape(-1, self.encoders, 2, UNITS)


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, t, *, train):
        return nn.Dense(PIXELS, name="out")(t.reshape(len(t), -1)).reshape(-1, 2, 2, 1)


def make(kernel="shifting", **options):
    if kernel == "shifting":
        options = {"window": 2, "spread": 0, "mu": 2.0} | options
    return Autoencoder(
        Linear(1 if kernel == "none" else 2),
        TopographicCapsules(capsules=C, places=D, kernel=kernel, **options),
        Decoder(),
        Gaussian(variance=VARIANCE),
    )


def weights(encoders):
    rng = np.random.default_rng(0)
    width = encoders * 2 * UNITS
    return {
        "encoder": {
            "out": {"kernel": 0.3 * rng.normal(size=(PIXELS, width)), "bias": np.zeros(width)}
        },
        "decoder": {
            "out": {"kernel": 0.5 * rng.normal(size=(UNITS, PIXELS)), "bias": np.zeros(PIXELS)}
        },
        "bottleneck": {"mu": np.float64(2.0)},
    }


def variables(encoders):
    params = jax.tree.map(jnp.float32, weights(encoders))
    return {"params": params if encoders == 2 else {k: params[k] for k in ("encoder", "decoder")}}


def images(count, frames=S):
    return np.random.default_rng(1).random((count, frames, 2, 2, 1)).astype(np.float32)


def normal(x, mean, log_variance):
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean) ** 2 * np.exp(-log_variance))


def loop(image, samples, *, predictive=False):
    """log w of each draw and frame, `[samples, batch, S]`, float64."""
    w = weights(2)
    x = image.reshape(len(image), S, PIXELS).astype(np.float64)
    q = ((x - 0.5) @ w["encoder"]["out"]["kernel"]).reshape(len(x), S, 2, 2, C, D)
    found = []
    for i in range(samples):
        log_w, drawn = 0, []
        for kind in range(2):
            key = jax.random.fold_in(jax.random.fold_in(KEY, i), kind)
            noise = np.asarray(normal_per_example(key, (len(x), S, C, D)), np.float64)
            mean, log_variance = q[:, :, kind, 0], q[:, :, kind, 1]
            value = mean + np.exp(log_variance / 2) * noise
            drawn.append(value)
            log_w += (normal(value, 0, 0) - normal(value, mean, log_variance)).sum((-1, -2))
        z, square = drawn[0], drawn[1] ** 2
        # A window of 2: this frame and the next one, its places one ahead.
        energy = square + np.roll(square, (-1, -1), axis=(1, 3))
        t = (z + 2) / np.sqrt(energy + 1e-6)
        output = t.reshape(len(x), S, UNITS) @ w["decoder"]["out"]["kernel"] + 0.5
        found.append(log_w + normal(x, output, math.log(VARIANCE)).sum(-1))
    return np.array(found)


def test_weights_are_those_of_a_float64_loop_for_any_chunk():
    image = images(2)
    log_w = loop(image, 7)
    frames = np.logaddexp.reduce(log_w, axis=0)
    sequence = np.logaddexp.reduce(log_w.sum(-1), axis=0)
    for chunk in (3, 7):
        found = sequence_log_weights(make(), variables(2), image, KEY, samples=7, chunk=chunk)
        np.testing.assert_allclose(found, np.c_[frames, sequence], rtol=2e-5)


def test_the_summary_names_what_the_release_leaves_out():
    image = images(3)
    evaluator = sequence_likelihood_evaluator(samples=5, chunk=5)
    batch = {
        "image": np.concatenate([image, np.full_like(image[:1], np.nan)]),
        "mask": np.float32([1, 1, 1, 0]),
    }
    found = evaluator.summary(evaluator.sums(make(), variables(2), batch, KEY))
    log_w = loop(image, 5)
    released = np.logaddexp.reduce(log_w, axis=0).mean()
    sequence = (np.logaddexp.reduce(log_w.sum(-1), axis=0) - math.log(5)).mean()
    expected = {
        "log_px_released": released,
        "log_px_frame": released - math.log(5),
        "log_px_sequence": sequence,
        "log_px_sequence_per_frame": sequence / S,
        "log_px_draws": 5,
    }
    assert found == pytest.approx(expected, rel=2e-5)


def test_both_come_to_the_likelihood_of_a_linear_vae():
    """t = z: frames are independent, and x is normal with covariance K'K + variance I."""
    image, w = images(2), weights(1)
    kernel = w["decoder"]["out"]["kernel"]
    covariance = kernel.T @ kernel + VARIANCE * np.eye(PIXELS)
    error = image.reshape(2, S, PIXELS).astype(np.float64) - 0.5
    square = np.einsum("nsi,ij,nsj->ns", error, np.linalg.inv(covariance), error)
    exact = -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])
    found = sequence_log_weights(
        make("none"), variables(1), image, KEY, samples=20_000, chunk=5000
    ) - math.log(20_000)
    np.testing.assert_allclose(found[:, :-1], exact, atol=0.1)
    np.testing.assert_allclose(found[:, -1], exact.sum(1), atol=0.3)
    # Fewer draws bound it from below, on average.
    keys = jax.random.split(KEY, 400)
    one = jax.vmap(
        lambda k: sequence_log_weights(make("none"), variables(1), image, k, samples=1, chunk=1)
    )(keys)
    assert (np.asarray(one).mean(0)[:, -1] < exact.sum(1)).all()


def test_single_images_are_sequences_of_one_frame():
    image = images(2, frames=1)[:, 0]
    found = sequence_log_weights(make("none"), variables(1), image, KEY, samples=4, chunk=4)
    assert found.shape == (2, 2)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_devices_together_draw_what_one_does():
    image = images(4)
    alone = sequence_log_weights(make(), variables(2), image, KEY, samples=3, chunk=2)
    together = jax.vmap(
        lambda rows: sequence_log_weights(
            make(axis_name="batch"), variables(2), rows, KEY, samples=3, chunk=2
        ),
        axis_name="batch",
    )(image.reshape(2, 2, *image.shape[1:]))
    np.testing.assert_allclose(together.reshape(4, S + 1), alone, rtol=2e-6)


def test_numbers_that_cannot_be():
    with pytest.raises(UserError, match='samples of the evaluator "sequence_likelihood" is 0'):
        sequence_likelihood_evaluator(samples=0)
