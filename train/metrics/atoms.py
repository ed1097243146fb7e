"""How many atoms of a dictionary a sparse code draws on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.errors import UserError
from train.metrics.evaluator import Evaluator, example_mask, masked_sums, means


def atoms_evaluator() -> Evaluator:
    """Counts how often each atom is used over the whole split.

    The model's `code` is floating `[batch, ..., atoms]`; an atom is used where its entry is not 0.

    Summary:
        used_atoms: atoms used at all.
        usual_atoms: atoms used at one position in a hundred or more.
        atoms_per_position: entries other than 0, mean over positions.

    Raises:
        UserError: (when traced) the model has discrete codes.
    """

    def sums(
        model: Any, variables: Any, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        code = model.apply(variables, batch, train=False, rngs={"sample": key}).code
        if not jnp.issubdtype(code.dtype, jnp.floating):
            raise UserError(
                f'the evaluator "atoms" needs a sparse code, the model\'s are {code.dtype}; '
                'for indices there is the evaluator "codes"'
            )
        uses = jnp.mean(code != 0, axis=tuple(range(1, code.ndim - 1)), dtype=jnp.float32)
        return masked_sums({"uses": uses}, example_mask(batch))

    def summary(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        share = means(totals)["uses"]
        return {
            "used_atoms": float(np.sum(share > 0)),
            "usual_atoms": float(np.sum(share >= 0.01)),
            "atoms_per_position": float(np.sum(share)),
        }

    return Evaluator(sums, summary)
