"""How far capsules move as their sequence does, beside what shows nothing of the images.

E_eq and CapCorr (Keller & Welling 2021, https://arxiv.org/abs/2109.01394, section 6) reward what a
model has by construction: a large mu makes t nearly constant, and a window that goes round makes
the energies move on with the number of the frame, whatever it shows. So three controls are measured
by the same code: draws of the prior, through the model's own kernel and mu; the sequence with its
frames shuffled; and the first frame throughout.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks.equivariance import (
    capsule_correlation,
    capsule_rolls,
    circular_correlation,
    equivariance_error,
)
from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, means
from train.metrics.likelihood import keys_per_example

CONTROLS = ("prior", "shuffled", "constant")


def equivariance_evaluator(*, factors: tuple[str, ...] = ()) -> Evaluator:
    """Measures the capsules t of one draw from the posterior of each sequence, as released.

    Where a batch has "factor" and "position" `[batch, frames]`, what moves and its place in each
    frame, the observed roll of the capsules is compared with the true one. `_prior`, `_shuffled`
    and `_constant` are the controls. In the shuffled sequence positions go with their frames; in
    the constant one they are those of the moving sequence, which its frames do not show: a model
    that follows the images scores low there, one that counts frames as high as before.

    Summary:
        equivariance_error, equivariance_error_prior, ..._shuffled, ..._constant: E_eq, a sum over
            pairs of frames, capsules and places, the mean over sequences.
        capcorr_FACTOR, ..._prior, ..._shuffled, ..._constant: CapCorr over the sequences in which
            this factor moves. Where several move together, as in rotation+hue, the position is
            that of the first one, and capsules that follow either are right. Of sequences that
            start at position 0 the first frame is compared with itself, which is right whatever
            the capsules hold.
        capcorr_moved_FACTOR, ..._prior: without those sequences.
        capcorr_circular_FACTOR, ..._prior: on a circle, where rolls 0 and D - 1 are neighbours.

    Args:
        factors: names of the batch's factors, in their order.

    Raises:
        UserError: (when traced) the model has no capsules, or its images are no sequences.
    """

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        image = batch[model.key]
        if not hasattr(model.bottleneck, "student_t") or image.ndim != model.frame_rank + 2:
            raise UserError(
                'the evaluator "equivariance" needs capsules of sequences; found '
                f"{type(model.bottleneck).__name__} and images {list(image.shape)}: leave it out"
            )
        axis_name = getattr(model.bottleneck, "axis_name", None)
        keys = keys_per_example(key, len(image), axis_name=axis_name)
        order = jax.vmap(lambda k: jax.random.permutation(k, image.shape[1]))(keys)
        t = model.apply(variables, image, order, key, method=_capsules)
        mask = example_mask(batch)
        found = masked_sums({f"error{name}": equivariance_error(t[name]) for name in t}, mask)
        if factors and "position" in batch:
            places = {name: batch["position"] for name in t}
            places["_shuffled"] = jnp.take_along_axis(batch["position"], order, axis=1)
            which = jax.nn.one_hot(batch["factor"], len(factors)) * mask[:, None]
            for name in t:
                found[f"rolls{name}"] = _rolls(t[name], places[name], which)
        return found

    def summary(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        errors = means({n: x for n, x in totals.items() if n.startswith("error") or n == "count"})
        values = {f"equivariance_{name}": float(x) for name, x in errors.items()}
        for i, factor in enumerate(factors):
            for control in ("", *(f"_{name}" for name in CONTROLS)):
                if f"rolls{control}" not in totals:
                    continue
                count = jnp.asarray(totals[f"rolls{control}"][i], jnp.float32)
                D = count.shape[0]
                observed, true = np.indices((D, D))
                rolls = {"observed": jnp.asarray(observed), "true": jnp.asarray(true)}
                name = f"{factor.replace('+', '_')}{control}"
                values[f"capcorr_{name}"] = float(capsule_correlation(**rolls, mask=count))
                if control in ("", "_prior"):
                    moved = jnp.where(rolls["true"] == 0, 0, count)
                    values[f"capcorr_moved_{name}"] = float(
                        capsule_correlation(**rolls, mask=moved)
                    )
                    values[f"capcorr_circular_{name}"] = float(
                        circular_correlation(**rolls, places=D, mask=count)
                    )
        return values

    return Evaluator(sums, summary)


def _capsules(
    model: Any, image: jax.Array, order: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    """The capsules `[batch, frames, capsules, places]` of the images and of each control.

    Runs inside `model.apply`. Frames are encoded one by one, so that shuffled frames have the same
    posteriors in another order. The prior is a posterior of mean 0 and log variance 0.
    """
    q = model.bottleneck.posteriors(model.encode(image))
    order = order[:, :, None, None]
    sequences = {
        "": q,
        "_prior": jax.tree.map(jnp.zeros_like, q),
        "_shuffled": jax.tree.map(lambda x: jnp.take_along_axis(x, order, axis=1), q),
        "_constant": jax.tree.map(lambda x: jnp.broadcast_to(x[:, :1], x.shape), q),
    }
    axis_name = model.bottleneck.axis_name
    return {
        name: model.bottleneck.student_t(
            *model.bottleneck.draw(q, jax.random.fold_in(key, i), axis_name=axis_name)
        )
        for i, (name, q) in enumerate(sequences.items())
    }


def _rolls(t: jax.Array, position: jax.Array, which: jax.Array) -> jax.Array:
    """How often each pair of observed and true roll occurs, `[factors, D, D]`.

    Sequences without a frame at position 0, and those whose position is no place of a capsule, are
    left out. `which` is `[batch, factors]`, the weight of each sequence at its factor.
    """
    rolls = capsule_rolls(t, position)
    observed, true = (jax.nn.one_hot(x, t.shape[-1]) for x in (rolls.observed, rolls.true))
    return jnp.einsum(
        "bf,bo,bt->fot",
        which * rolls.found[:, None],
        observed,
        true,
        precision=jax.lax.Precision.HIGHEST,
    )
