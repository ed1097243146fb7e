"""log p(x) of sequences by importance sampling: as released, and as a bound that holds."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bottlenecks.gaussian import log_density
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, mean_floats
from train.metrics.likelihood import log_sum_of_draws


def sequence_likelihood_evaluator(*, samples: int = 10, chunk: int = 10) -> Evaluator:
    """Estimates log p(x) of a Topographic VAE from k draws of z and u.

    The weight of a draw for frame l is w_l = p(x_l | t_l) p(z_l) p(u_l) / (q(z_l | x_l) q(u_l |
    x_l)). Summary, in nats:
        log_px_released: log sum_i w_l, the mean over frames and sequences, as the release computes
            it (akandykeller/TopographicVAE). It leaves out -log k, 2.303 for 10 draws. Nor do its
            weights have the u of the other frames that t_l depends on: where W couples frames, it
            bounds neither log p(x_l) nor log p(x_1:S).
        log_px_frame: the same with -log k.
        log_px_sequence: log 1/k sum_i prod_l w_l, per sequence: a lower bound of log p(x_1:S)
            (Burda et al. 2016, Eq. 8), valid for any W, and loose.
        log_px_sequence_per_frame: that over the number of frames.
        log_px_draws: k.

    Single images count as sequences of one frame.

    Args:
        samples: k, draws per sequence.
        chunk: draws decoded at once; sets the memory, not the result.

    Raises:
        UserError: a number below 1; (when traced) the model has no capsules.
    """
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value < 1:
            raise UserError(
                f'{name} of the evaluator "sequence_likelihood" is {value}; expected 1 or more'
            )

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        if not hasattr(model.bottleneck, "student_t"):
            raise UserError(
                'the evaluator "sequence_likelihood" needs capsules; '
                f'{type(model.bottleneck).__name__} has none: take "importance"'
            )
        log_w = sequence_log_weights(
            model, variables, batch[model.key], key, samples=samples, chunk=chunk
        )
        frames = log_w.shape[1] - 1
        released, sequence = jnp.mean(log_w[:, :-1], axis=1), log_w[:, -1] - math.log(samples)
        values = {
            "log_px_released": released,
            "log_px_frame": released - math.log(samples),
            "log_px_sequence": sequence,
            "log_px_sequence_per_frame": sequence / frames,
            "log_px_draws": jnp.full_like(sequence, samples),
        }
        return masked_sums(values, example_mask(batch))

    return Evaluator(sums, mean_floats)


def sequence_log_weights(
    model: Any, variables: Any, image: jax.Array, key: jax.Array, *, samples: int, chunk: int
) -> jax.Array:
    """Sums over draws of each frame's weights, and of their product over the frames, as logarithms.

    Draw i takes its noise from `fold_in(key, i)`, so that the draws do not depend on `chunk`.

    Args:
      model: an `Autoencoder` with topographic capsules.
      variables: of the model.
      image: `[batch, (frames,) height, width, channels]`.
      key: of the draws.
      samples: k.
      chunk: draws decoded at once.

    Returns:
      `[batch, frames + 1]` nats, the product's last.
    """
    lead = image.ndim - model.frame_rank
    q = model.apply(variables, image, method=lambda m, x: m.bottleneck.posteriors(m.encode(x)))

    def log_weight(draw: jax.Array) -> jax.Array:
        key_i = jax.random.fold_in(key, draw)
        output, log_ratio = model.apply(variables, q, key_i, lead, method=_decoded_draw)
        log_w = log_ratio - _per_frame(model.likelihood.nats(output, image), lead)
        return jnp.concatenate([log_w, log_w.sum(axis=1, keepdims=True)], axis=1)

    like = jnp.pad(_per_frame(q.z.mean, lead), ((0, 0), (0, 1)))
    return log_sum_of_draws(log_weight, like, samples=samples, chunk=chunk)


def _decoded_draw(
    model: Any, posteriors: Any, key: jax.Array, lead: int
) -> tuple[jax.Array, jax.Array]:
    """What is decoded of a draw, and log p(z) p(u) / q(z) q(u) of it, `[batch, frames]`.

    Runs inside `model.apply`.
    """
    bottleneck = model.bottleneck
    drawn = bottleneck.draw(posteriors, key, axis_name=bottleneck.axis_name)
    output = model.decode(bottleneck.look_up(bottleneck.student_t(*drawn)), lead=lead)
    log_ratio = 0.0
    for x, q in zip(drawn, posteriors, strict=True):
        if q is not None:
            log_prior = log_density(x, jnp.zeros_like(x), jnp.zeros_like(x))
            log_ratio += _per_frame(log_prior - log_density(x, *q), lead)
    return output, log_ratio


def _per_frame(x: jax.Array, lead: int) -> jax.Array:
    """Sums all but the first `lead` axes, batch (and frames): `[batch, frames]`."""
    return x.reshape(x.shape[0], x.shape[1] if lead == 2 else 1, -1).sum(axis=2)
