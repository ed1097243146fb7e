"""The check that every function makes at its door."""

import chex
import jax.numpy as jnp


def check_floating(**arrays: chex.Array) -> None:
    """Raises ValueError for the first array that is not floating, by its name."""
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be floating, got {array.dtype}; convert with astype.")
