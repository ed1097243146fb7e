"""Likelihood: the loss terms in nats and bits, units in use, and the importance-weighted bound."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.gaussian import kl_standard_normal, log_density
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, mean_floats, means

# A unit is active when its posterior mean varies by more than this over the data
# (Burda et al. 2016, sec. 5.2).
ACTIVE_VARIANCE = 0.01


def losses_evaluator() -> Evaluator:
    """Averages the model's loss terms and metrics, and restates them as bounds of log p(x).

    Summary, in nats per example unless said otherwise:
        every loss term and metric of the model, under its own name.
        nats: the reconstruction term, -log p(x | z).
        nll_uniform_prior: for integer codes, nats + N log K: the bound
            log p(x) >= log p(x | z_q) + log p(z_q) of van den Oord et al. 2017, sec. 3.2, with the
            uniform prior over the N tokens of K codes that it is trained with.
        elbo: for a model with loss terms "kl" or "kl_...", -(reconstruction + their sum).
        bits_per_dim, nll_uniform_prior_bits_per_dim, elbo_bits_per_dim: the same three (the last
            as a cost, -elbo) divided by dims * ln 2, dims = all sub-pixels of an example. Given
            where the likelihood is of discrete values.

    For a density on 8-bit images the three bear the suffix `_dequantised`: the values are spread
    uniformly over their levels of 1/256, (x + u) / 256 with u in [0, 1), and log2 256 bits/dim are
    added for the width of a level, which bounds the bits/dim of the discrete image (Theis et al.
    2016, sec. 3.1). The latent stays that of the image itself, with which the bound holds as well.
    A density on images that are floating has no bits/dim.
    """

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        sample_key, level_key = jax.random.split(key)
        losses, output = model.apply(
            variables, batch, train=False, method="losses", rngs={"sample": sample_key}
        )
        values = {**output.metrics, **losses}
        if "reconstruction" in losses:
            values.update(_bounds(model, losses, output, batch[model.key], level_key))
        return masked_sums(values, example_mask(batch))

    return Evaluator(sums, mean_floats)


def _bounds(
    model: Any, losses: Mapping[str, jax.Array], output: Any, image: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    """Gives the bounds of `losses_evaluator` of each example, `[batch]`."""
    nats = losses["reconstruction"]
    bounds = {"nats": nats}
    latent_nats = {"": jnp.zeros_like(nats)}  # what the latent adds to the reconstruction
    if jnp.issubdtype(output.code.dtype, jnp.integer):
        tokens = math.prod(output.code.shape[1:])
        uniform = jnp.full_like(nats, tokens * math.log(model.bottleneck.codes))
        bounds["nll_uniform_prior"] = nats + uniform
        latent_nats["nll_uniform_prior_"] = uniform
    if kl := [value for name, value in losses.items() if name.split("_")[0] == "kl"]:
        bounds["elbo"] = -(nats + sum(kl))
        latent_nats["elbo_"] = sum(kl)

    suffix, width = "", 0.0
    if not model.likelihood.discrete:
        if image.dtype != jnp.uint8:
            return bounds
        suffix, width = "_dequantised", math.log2(256)
        axis_name = getattr(model.bottleneck, "axis_name", None)
        u = jax.vmap(lambda k: jax.random.uniform(k, image.shape[1:]))(
            keys_per_example(key, image.shape[0], axis_name=axis_name)
        )
        spread = (image.astype(jnp.float32) + u) / 256
        nats = _per_example(model.likelihood.nats(output.output, spread))
    nats_per_bit = math.prod(image.shape[1:]) * math.log(2)
    for name, more in latent_nats.items():
        bounds[f"{name}bits_per_dim{suffix}"] = (nats + more) / nats_per_bit + width
    return bounds


def units_evaluator() -> Evaluator:
    """Measures which units of a Gaussian latent are in use.

    Every channel at every position is a unit. Read the vectors with `kl_per_unit(totals)` and
    `variance_per_unit(totals)`.

    Summary:
        kl: nats per example, summed over the units.
        units, active_units: how many there are; how many of them have a posterior mean with a
            variance over the data above 0.01 (Burda et al. 2016, sec. 5.2).
    """

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        del key
        image = batch[model.key]
        mean, log_variance = model.apply(variables, image, method=_posterior)
        # Sums of squares lose a small variance beside a large mean. The posterior mean of a grey
        # image is about where the data's lie, and the same in every batch and on every device.
        grey = jnp.full((1, *image.shape[1:]), 0.5, jnp.float32)
        shift, _ = model.apply(variables, grey, method=_posterior)
        centred = _flat(mean) - _flat(shift)
        return masked_sums(
            {
                "kl": _flat(kl_standard_normal(mean, log_variance)),
                "mean": centred,
                "square": jnp.square(centred),
            },
            example_mask(batch),
        )

    def summary(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        kl = kl_per_unit(totals)
        active = variance_per_unit(totals) > ACTIVE_VARIANCE
        return {
            "kl": float(kl.sum()),
            "units": float(kl.size),
            "active_units": float(active.sum()),
        }

    return Evaluator(sums, summary)


def kl_per_unit(totals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Gives the mean KL to the prior of each unit, `[units]` nats, from the totals of "units"."""
    return means(totals)["kl"]


def variance_per_unit(totals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Gives the variance over the data of each posterior mean, `[units]`, from those totals."""
    moments = means(totals)
    return np.maximum(moments["square"] - moments["mean"] ** 2, 0)


def importance_evaluator(*, samples: int = 5000, chunk: int = 10) -> Evaluator:
    """Bounds log p(x) by importance sampling from the posterior of a Gaussian latent.

    log p(x) >= E log 1/k sum_i p(x | z_i) p(z_i) / q(z_i | x), z_i ~ q(z | x)
    (Burda et al. 2016, Eq. 8), all images of a batch at once.

    Summary: `nll_importance`, the negative bound in nats per example, `nll_importance_samples` = k,
    and for a likelihood of discrete values `nll_importance_bits_per_dim`.

    Args:
        samples: k, draws per image.
        chunk: draws decoded at once; sets the memory, not the result.

    Raises:
        UserError: a number below 1.
    """
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value < 1:
            raise UserError(f'{name} of the evaluator "importance" is {value}; expected 1 or more')

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        nll = -importance_bound(
            model, variables, batch[model.key], key, samples=samples, chunk=chunk
        )
        values = {"nll_importance": nll, "nll_importance_samples": jnp.full_like(nll, samples)}
        if model.likelihood.discrete:
            dims = math.prod(batch[model.key].shape[1:])
            values["nll_importance_bits_per_dim"] = nll / (dims * math.log(2))
        return masked_sums(values, example_mask(batch))

    return Evaluator(sums, mean_floats)


def importance_bound(
    model: Any, variables: Any, image: jax.Array, key: jax.Array, *, samples: int, chunk: int
) -> jax.Array:
    """Computes the importance-weighted bound of log p(x) of each image.

    Draw i takes its noise from `fold_in(key, i)`, so that the draws do not depend on `chunk`.

    Args:
        model: an `Autoencoder` whose bottleneck has `posterior`.
        variables: of the model.
        image: `[batch, ..., height, width, channels]`.
        key: of the draws.
        samples: k, draws per image.
        chunk: draws decoded at once.

    Returns:
        `[batch]` nats.

    Source:
        Burda, Grosse and Salakhutdinov 2016, "Importance Weighted Autoencoders", Eq. 8.
    """
    mean, log_variance = model.apply(variables, image, method=_posterior)
    axis_name = getattr(model.bottleneck, "axis_name", None)
    lead = image.ndim - model.frame_rank

    def log_weight(draw: jax.Array) -> jax.Array:
        keys = keys_per_example(jax.random.fold_in(key, draw), mean.shape[0], axis_name=axis_name)
        noise = jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(keys)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        output = model.apply(variables, z, lead=lead, method="decode")
        log_likelihood = -_per_example(model.likelihood.nats(output, image))
        log_prior = _per_example(log_density(z, jnp.zeros_like(z), jnp.zeros_like(z)))
        log_posterior = _per_example(log_density(z, mean, log_variance))
        return log_likelihood + log_prior - log_posterior

    log_sum = log_sum_of_draws(log_weight, _per_example(mean), samples=samples, chunk=chunk)
    return log_sum - math.log(samples)


def log_sum_of_draws(
    log_weight: Callable[[jax.Array], jax.Array], like: jax.Array, *, samples: int, chunk: int
) -> jax.Array:
    """Computes log sum_i exp(log_weight(i)) over draws i = 0 .. samples - 1, chunk by chunk.

    Args:
        log_weight: of draw i, an array shaped as `like`.
        like: made of the data, so that this runs under shard_map too.
        samples: number of draws.
        chunk: draws computed at once; sets the memory, not the result.
    """
    chunk = min(chunk, samples)

    def add_chunk(
        carry: tuple[jax.Array, jax.Array], draws: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        largest, total = carry  # the weights so far sum to total * exp(largest)
        log_w = jax.vmap(log_weight)(draws)
        # The last chunk may run past the last draw.
        inside = (draws < samples).reshape(-1, *(1 for _ in like.shape))
        log_w = jnp.where(inside, log_w, -jnp.inf)
        new = jnp.maximum(largest, log_w.max(axis=0))
        total = total * jnp.exp(largest - new) + jnp.exp(log_w - new[None]).sum(axis=0)
        return (new, total), None

    nothing = jnp.zeros_like(like, jnp.float32)
    start = (jnp.full_like(nothing, jnp.finfo(jnp.float32).min), nothing)
    draws = jnp.arange(-(-samples // chunk) * chunk).reshape(-1, chunk)
    (largest, total), _ = jax.lax.scan(add_chunk, start, draws)
    return largest + jnp.log(total)


def _posterior(model: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives mean and log variance of q(z | x); runs inside `model.apply`.

    Raises:
        UserError: (when traced) the model's latent has no such posterior.
    """
    if not hasattr(model.bottleneck, "posterior"):
        raise UserError(
            'the evaluators "units" and "importance" need a Gaussian posterior, which '
            f"{type(model.bottleneck).__name__} has not; leave them out for this bottleneck"
        )
    return model.bottleneck.posterior(model.encode(image))


def keys_per_example(key: jax.Array, examples: int, *, axis_name: str | None) -> jax.Array:
    """Makes one key for each example of the batch of all devices, so that none share their noise.

    Evaluation hands every device the same key; see `models.gaussian_vae.normal_per_example`.
    """
    place = jnp.arange(examples)
    if axis_name is not None:
        place = place + examples * jax.lax.axis_index(axis_name)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(place)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def _per_example(x: jax.Array) -> jax.Array:
    return _flat(x).sum(axis=1)
