"""All that changes while a run trains, as one tree of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Window(NamedTuple):
    """Running sums of what is logged, so that a resumed run logs what a straight one does.

    Attributes:
      sums: name to the sum over the steps since the last logged line, float32.
      steps: how many steps that is.
      last: name to the last step's value.
      broken: the first step whose loss or gradient was not finite; -1 if none was.
    """

    sums: dict[str, jax.Array]
    steps: jax.Array
    last: dict[str, jax.Array]
    broken: jax.Array


class TrainState(NamedTuple):
    """State of a run after `step` steps.

    Attributes:
      step: steps done, int32.
      params: learned by the optimiser.
      collections: other variables of the module (EMA codebooks), by collection.
      opt_state: of the optimiser.
      average: exponential moving average of the parameters, or None.
      window: what has been measured since the last logged line.
    """

    step: jax.Array
    params: Any
    collections: dict[str, Any]
    opt_state: Any
    average: Any
    window: Window


def evaluation_variables(state: TrainState) -> dict[str, Any]:
    """Variables to evaluate with: averaged parameters where they are kept."""
    params = state.params if state.average is None else state.average
    return {"params": params, **state.collections}


def empty_window(names: list[str]) -> Window:
    """A window that has seen nothing."""
    zeros = {name: jnp.zeros((), jnp.float32) for name in names}
    return Window(
        sums=zeros,
        steps=jnp.zeros((), jnp.int32),
        last=dict(zeros),
        broken=jnp.full((), -1, jnp.int32),
    )


def add_to_window(
    window: Window, values: dict[str, jax.Array], *, step: jax.Array, fresh: jax.Array
) -> Window:
    """The window with one more step in it; `fresh` starts it anew first.

    `step` is the number of the step just done. Shapes: all scalars.
    """
    keep = jnp.where(fresh, 0.0, 1.0)
    finite = jnp.isfinite(values["loss"]) & jnp.isfinite(values["gradient_norm"])
    return Window(
        sums={name: jnp.where(fresh, 0.0, window.sums[name]) + v for name, v in values.items()},
        steps=(window.steps * keep.astype(jnp.int32) + 1).astype(jnp.int32),
        last=values,
        broken=jnp.where((window.broken < 0) & ~finite, step, window.broken),
    )
