"""What an evaluator is, and the masked sums all of them are made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import UserError


class Evaluator(NamedTuple):
    """A measurement of a model on a data set, exact for any batch size and device count.

    sums: `(model, variables, batch, key) -> dict of arrays`: sums over the local batch, in which
        examples whose `batch["mask"]` is 0 count nothing. The caller adds them over devices, and
        over batches in float64.
    summary: `(totals) -> dict of floats`: the named results, from the sums over the whole split.
    """

    sums: Callable[[Any, Any, Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]]
    summary: Callable[[Mapping[str, np.ndarray]], dict[str, float]]


def example_mask(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Gives the weight of each example, `[batch]` float32: 1 real, 0 padding; all 1 by default."""
    if "mask" in batch:
        return batch["mask"].astype(jnp.float32)
    return jnp.ones(jax.tree.leaves(batch)[0].shape[:1], jnp.float32)


def masked_sums(values: Mapping[str, jax.Array], mask: jax.Array) -> dict[str, jax.Array]:
    """Sums `[batch, ...]` values over the examples, and counts the examples under "count".

    The padded rows are selected away, not multiplied by 0: whatever a model makes of padding, NaN
    included, stays out of the sums.

    Args:
        values: arrays `[batch, ...]`.
        mask: `[batch]`, 1 real, 0 padding.
    """

    def total(value: jax.Array) -> jax.Array:
        weight = mask.reshape(mask.shape + (1,) * (value.ndim - 1))
        weight = jnp.broadcast_to(weight, value.shape)
        weighted = weight * value.astype(jnp.float32)
        return jnp.where(weight > 0, weighted, jnp.zeros_like(weighted)).sum(axis=0)

    return {name: total(value) for name, value in values.items()} | {"count": mask.sum()}


def means(totals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Divides the sums by "count", in float64: the mean over the examples of each value.

    Raises:
        UserError: no example was counted.
    """
    count = float(totals["count"])
    if count <= 0:
        raise UserError(
            "nothing to evaluate: the evaluation split has no example; expected one or more"
        )
    return {
        name: np.asarray(total, np.float64) / count
        for name, total in totals.items()
        if name != "count"
    }


def mean_floats(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Gives `means` of scalar sums as Python floats."""
    return {name: float(mean) for name, mean in means(totals).items()}
