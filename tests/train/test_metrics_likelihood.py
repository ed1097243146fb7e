"""Units in use, and the importance-weighted bound against models with a known likelihood."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from models.autoencoder import Autoencoder
from models.gaussian_vae import GaussianBottleneck
from models.likelihoods import Bernoulli, Gaussian
from train.errors import UserError
from train.metrics.likelihood import (
    importance_bound,
    importance_evaluator,
    kl_per_unit,
    units_evaluator,
    variance_per_unit,
)

SHAPE = (2, 2, 1)
DIMS, DEPTH, VARIANCE = 4, 2, 0.3


class Flatten(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        return x.reshape(x.shape[0], -1)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, z, *, train):
        return nn.Dense(DIMS, name="out")(z).reshape(-1, *SHAPE)


def linear_model(likelihood=None, axis_name=None):
    return Autoencoder(
        encoder=Flatten(),
        bottleneck=GaussianBottleneck(depth=DEPTH, axis_name=axis_name),
        decoder=Linear(),
        likelihood=likelihood or Gaussian(variance=VARIANCE),
    )


def weights(log_variance=-1.0, offset=0.0):
    """Variables of the linear model, float64 in NumPy: x -> (mean, log variance), z -> output."""
    rng = np.random.default_rng(0)
    posterior = {
        "kernel": np.c_[rng.normal(size=(DIMS, DEPTH)), np.zeros((DIMS, DEPTH))],
        "bias": np.r_[np.full(DEPTH, offset), np.full(DEPTH, log_variance)],
    }
    decoder = {"kernel": rng.normal(size=(DEPTH, DIMS)), "bias": 0.1 * rng.normal(size=DIMS)}
    return {"bottleneck": {"posterior": posterior}, "decoder": {"out": decoder}}


def variables(**options):
    return {"params": jax.tree.map(jnp.float32, weights(**options))}


def images(count):
    return np.random.default_rng(1).random((count, *SHAPE)).astype(np.float32)


def exact_log_likelihood(image):
    """log N(x; b + 0.5, W'W + variance I), for x = W'z + b + 0.5 + noise and z ~ N(0, I)."""
    decoder = weights()["decoder"]["out"]
    covariance = decoder["kernel"].T @ decoder["kernel"] + VARIANCE * np.eye(DIMS)
    error = image.reshape(len(image), -1).astype(np.float64) - decoder["bias"] - 0.5
    square = np.einsum("ni,ij,nj->n", error, np.linalg.inv(covariance), error)
    return -0.5 * (square + np.linalg.slogdet(2 * np.pi * covariance)[1])


def normal_log_density(x, mean, log_variance):
    return -0.5 * (np.log(2 * np.pi) + log_variance + (x - mean) ** 2 * np.exp(-log_variance))


def bound_by_loop(image, key, samples):
    """Burda et al. 2016, Eq. 8, image by image and draw by draw, in float64."""
    w = weights()
    posterior, decoder = w["bottleneck"]["posterior"], w["decoder"]["out"]
    bounds = []
    for n, x in enumerate(image.reshape(len(image), -1).astype(np.float64)):
        both = (x - 0.5) @ posterior["kernel"] + posterior["bias"]
        mean, log_variance = both[:DEPTH], both[DEPTH:]
        log_w = []
        for k in range(samples):
            draw = jax.random.fold_in(jax.random.fold_in(key, k), n)
            noise = np.asarray(jax.random.normal(draw, (DEPTH,)), np.float64)
            z = mean + np.exp(log_variance / 2) * noise
            output = z @ decoder["kernel"] + decoder["bias"] + 0.5
            log_w.append(
                normal_log_density(x, output, np.log(VARIANCE)).sum()
                + normal_log_density(z, 0, 0).sum()
                - normal_log_density(z, mean, log_variance).sum()
            )
        bounds.append(np.logaddexp.reduce(log_w) - np.log(samples))
    return np.array(bounds)


def run(evaluator, model, params, image, size, key=None):
    key = jax.random.key(5) if key is None else key
    totals = {}
    step = jax.jit(lambda batch: evaluator.sums(model, params, batch, key))
    for first in range(0, len(image), size):
        rows = image[first : first + size]
        pad = np.full((size - len(rows), *SHAPE), np.nan, np.float32)
        mask = np.r_[np.ones(len(rows)), np.zeros(len(pad))].astype(np.float32)
        for name, value in step({"image": np.concatenate([rows, pad]), "mask": mask}).items():
            totals[name] = totals.get(name, 0) + np.asarray(value, np.float64)
    return totals


def test_bound_equals_a_float64_loop():
    image, key = images(3), jax.random.key(7)
    found = importance_bound(linear_model(), variables(), image, key, samples=20, chunk=6)
    np.testing.assert_allclose(found, bound_by_loop(image, key, 20), rtol=1e-5)


def test_chunks_do_not_change_the_bound():
    image, key = images(3), jax.random.key(7)
    bounds = [
        importance_bound(linear_model(), variables(), image, key, samples=20, chunk=chunk)
        for chunk in (1, 7, 20, 64)
    ]
    for bound in bounds[1:]:
        np.testing.assert_allclose(bound, bounds[0], rtol=2e-6)


def test_bound_converges_to_the_exact_likelihood():
    image = images(16)
    exact = exact_log_likelihood(image)

    def bounds(samples):
        return np.asarray(
            importance_bound(
                linear_model(),
                variables(),
                image,
                jax.random.key(8),
                samples=samples,
                chunk=500,
            )
        )

    few, many = bounds(1), bounds(20000)
    np.testing.assert_allclose(many, exact, atol=0.1)
    np.testing.assert_allclose(many.mean(), exact.mean(), atol=0.02)
    assert few.mean() < many.mean()


def test_one_draw_of_the_exact_posterior_is_enough():
    """With the exact posterior every weight is p(x), so that a single draw gives log p(x)."""
    w = weights()
    w_t = w["decoder"]["out"]["kernel"]  # [DEPTH, DIMS]
    precision = w_t @ w_t.T / VARIANCE + np.eye(DEPTH)
    # q is diagonal: turn the latent space so that the posterior's precision is diagonal too.
    eigenvalues, axes = np.linalg.eigh(precision)
    kernel = axes.T @ w_t
    gain = (kernel / VARIANCE / eigenvalues[:, None]).T  # [DIMS, DEPTH]
    w["decoder"]["out"]["kernel"] = kernel
    w["bottleneck"]["posterior"] = {
        "kernel": np.c_[gain, np.zeros((DIMS, DEPTH))],
        "bias": np.r_[-w["decoder"]["out"]["bias"] @ gain, -np.log(eigenvalues)],
    }
    image = images(5)
    found = importance_bound(
        linear_model(),
        {"params": jax.tree.map(jnp.float32, w)},
        image,
        jax.random.key(0),
        samples=1,
        chunk=1,
    )
    np.testing.assert_allclose(found, exact_log_likelihood(image), rtol=1e-5)


def test_weights_far_apart_do_not_overflow():
    model = linear_model(Gaussian(variance=1e-4))
    found = importance_bound(model, variables(), images(4), jax.random.key(0), samples=50, chunk=10)
    assert np.isfinite(found).all()
    assert (found < -1000).any()


def test_importance_evaluator_ignores_padding_and_names_its_samples():
    evaluator = importance_evaluator(samples=30, chunk=8)
    image = images(6)
    totals = run(evaluator, linear_model(), variables(), image, 8)
    summary = evaluator.summary(totals)
    bound = importance_bound(
        linear_model(), variables(), image, jax.random.key(5), samples=30, chunk=8
    )
    np.testing.assert_allclose(summary["nll_importance"], -bound.mean(), rtol=1e-5)
    assert summary["nll_importance_samples"] == 30
    assert set(summary) == {"nll_importance", "nll_importance_samples"}  # a density: no bits
    summary = evaluator.summary(run(evaluator, linear_model(Bernoulli()), variables(), image, 8))
    np.testing.assert_allclose(
        summary["nll_importance_bits_per_dim"],
        summary["nll_importance"] / (DIMS * np.log(2)),
        rtol=1e-6,
    )
    with pytest.raises(UserError, match='samples of the evaluator "importance" is 0'):
        importance_evaluator(samples=0)


@pytest.mark.parametrize("mapped", ["vmap", "shard_map"])
def test_devices_together_bound_what_one_does(mapped):
    image, key = images(8), jax.random.key(7)
    alone = importance_bound(linear_model(), variables(), image, key, samples=9, chunk=4)

    def part(rows):
        return importance_bound(
            linear_model(axis_name="batch"), variables(), rows, key, samples=9, chunk=4
        )

    if mapped == "vmap":
        together = jax.jit(jax.vmap(part, axis_name="batch"))(image.reshape(4, 2, *SHAPE)).reshape(
            -1
        )
    else:
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
        spec = PartitionSpec("batch")
        together = jax.jit(jax.shard_map(part, mesh=mesh, in_specs=spec, out_specs=spec))(image)
    np.testing.assert_allclose(together, alone, rtol=2e-6)


def test_units_equal_float64_statistics_for_any_batch_split():
    image = images(10)
    posterior = weights()["bottleneck"]["posterior"]
    mean = (image.reshape(10, -1).astype(np.float64) - 0.5) @ posterior["kernel"][:, :DEPTH]
    kl = 0.5 * (mean**2 + np.exp(-1.0) + 1.0 - 1).mean(axis=0)
    evaluator = units_evaluator()
    for size in (10, 4):
        totals = run(evaluator, linear_model(), variables(), image, size)
        np.testing.assert_allclose(kl_per_unit(totals), kl, rtol=1e-5)
        np.testing.assert_allclose(variance_per_unit(totals), mean.var(axis=0), rtol=1e-5)
        summary = evaluator.summary(totals)
        np.testing.assert_allclose(summary["kl"], kl.sum(), rtol=1e-5)
        assert (summary["units"], summary["active_units"]) == (2, 2)


def test_small_variance_beside_a_large_mean_is_kept():
    """Mean 300 and variance near the threshold: plain float32 sums of squares miss it by far."""
    image = images(1000)
    params = variables(offset=300.0)
    kernel = params["params"]["bottleneck"]["posterior"]["kernel"]
    params["params"]["bottleneck"]["posterior"]["kernel"] = kernel * jnp.float32([0.3, 0.1, 0, 0])
    mean = (image.reshape(1000, -1).astype(np.float64) - 0.5) @ np.asarray(kernel)[:, :DEPTH]
    totals = run(units_evaluator(), linear_model(), params, image, 300)
    variance = (mean * [0.3, 0.1]).var(axis=0)
    np.testing.assert_allclose(variance_per_unit(totals), variance, rtol=1e-3)
    active = units_evaluator().summary(totals)["active_units"]
    assert active == (variance > 0.01).sum() == 1


def test_units_of_a_spatial_latent_are_all_positions_and_channels():
    class Spatial:
        key = "image"

        def apply(self, variables, image, method):
            x = jnp.asarray(image)
            return jnp.concatenate([x, 0 * x], -1), jnp.zeros((*x.shape[:-1], 2))

    sums = units_evaluator().sums(Spatial(), {}, {"image": images(3)}, None)
    assert sums["kl"].shape == (8,)
    summary = units_evaluator().summary(sums)
    assert (summary["units"], summary["active_units"]) == (8, 4)
