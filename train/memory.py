"""What a training step needs in memory, before a machine is paid for: `python -m train.memory`.

    python -m train.memory --config configs/cvgan_imagenet256.py --config.train.batch_size=4

Traces one step at full size, without data and without computing. Prints the parameters of every
part and the bytes on one device: of the state that stays (parameters, optimiser, averages,
statistics) and of the values made on the way (gradients, and activations kept for them). The latter
are an estimate: the most that are alive at once where the traced operations are done in their
order, each making its result in full. A compiler fuses operations and orders them anew, and wants
room for its convolutions. `--compile` compiles the step for this machine too and prints the
compiler's own figure; at 256x256 that takes minutes.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from absl import flags
from jax.extend import core
from ml_collections import ConfigDict

from train import cli, parallel, runs, steps
from train.checks import check
from train.errors import UserError

GIB = 2**30


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      parameters: of model and discriminator.
      optimiser: its state, of both.
      others: averaged parameters, codebooks, statistics and what is logged.
      constants: weights that nothing trains, of a perceptual loss.
      batch: of images.
      gradients: of all parameters; a part of `values`.
      values: the estimate of what else is alive at once; see the module.
    """

    parameters: int
    optimiser: int
    others: int
    constants: int
    batch: int
    gradients: int
    values: int

    @property
    def whole(self) -> int:
        """All of it."""
        return sum(self) - self.gradients


def one_step(config: ConfigDict, *, rows: int) -> tuple[Any, tuple[Any, Any]]:
    """One device's training step `(state, batch)` and the shapes of its arguments."""
    model = runs.build_model(config, axis_name=parallel.AXIS)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    step = runs.make_train_step(config, model, optimizer)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype),
        runs.example_batch(config, rows=rows),
    )
    return step, (runs.abstract_state(config), batch)


def estimate(config: ConfigDict, *, devices: int = 1) -> Memory:
    """Traces the config's training step on one of `devices`.

    Raises:
      UserError: the batch cannot be shared out.
    """
    step, (state, batch) = one_step(config, rows=_rows(config, devices))
    traced = jax.make_jaxpr(step, axis_env=[(parallel.AXIS, 1)])(state, batch)
    players = [state, state.adversary] if hasattr(state, "adversary") else [state]
    parameters, optimiser = (
        sum(_bytes(getattr(player, name)) for player in players) for name in ("params", "opt_state")
    )
    return Memory(
        parameters=parameters,
        optimiser=optimiser,
        others=_bytes(state) - parameters - optimiser,
        constants=sum(map(_size, traced.consts)),
        batch=_bytes(batch),
        gradients=parameters,
        values=most_alive(traced.jaxpr),
    )


def most_alive(jaxpr: core.Jaxpr, *, outputs: bool = False) -> int:
    """The most bytes of values made inside that are alive at once, done in order.

    A value lives from the operation that makes it to the last that reads it. Inputs and constants
    are not counted. Of an operation that holds others, such as a jitted function or a loop, those
    count too, once.

    Args:
      jaxpr: the operations.
      outputs: whether its results count as well, to its end. A training step's do not: they take
        the place of the state that it was given.
    """
    kept = set() if not outputs else {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    skipped = set() if outputs else {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    last = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars if isinstance(v, core.Var)}
    alive: dict[core.Var, int] = {}
    now = most = 0
    for i, eqn in enumerate(jaxpr.eqns):
        made = {v: _size(v.aval) for v in eqn.outvars if v not in skipped}
        inside = max((most_alive(inner, outputs=True) for inner in _inner(eqn)), default=0)
        most = max(most, now + max(sum(made.values()), inside))
        alive |= {v: size for v, size in made.items() if v in last or v in kept}
        ended = {v for v in eqn.invars if isinstance(v, core.Var) and last[v] == i} - kept
        now = now + sum(alive[v] for v in made if v in alive)
        now -= sum(alive.pop(v) for v in ended if v in alive)
    return most


def _inner(eqn: Any) -> Iterator[core.Jaxpr]:
    """The operations inside an operation."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def _size(aval: Any) -> int:
    """Bytes of an array, or of what is known of it."""
    if not hasattr(aval, "dtype") or jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return 0  # keys are a few bytes
    return math.prod(aval.shape) * aval.dtype.itemsize


def _bytes(tree: Any) -> int:
    return sum(_size(x) for x in jax.tree.leaves(tree))


def _rows(config: ConfigDict, devices: int) -> int:
    if config.train.batch_size % devices:
        raise UserError(
            f"train.batch_size is {config.train.batch_size}, which cannot be shared out over "
            f"{devices} devices"
        )
    return config.train.batch_size // devices


def compiled(config: ConfigDict, *, devices: int = 1) -> Any:
    """The compiler's own figures of the step on this machine; it takes its time."""
    step, (state, batch) = one_step(config, rows=_rows(config, devices))
    mapped = jax.pmap(
        step,
        axis_name=parallel.AXIS,
        in_axes=(None, 0),
        out_axes=(None, 0),
        donate_argnums=0,
        devices=jax.local_devices()[:1],
    )
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), batch)
    return mapped.lower(state, batch).compile().memory_analysis()


def parameters(config: ConfigDict) -> dict[str, int]:
    """How many parameters each part has, and what no optimiser sees."""
    state = runs.abstract_state(config)
    parts = dict(state.params)
    if "frozen" in state.collections:
        parts["frozen"] = state.collections["frozen"]
    if hasattr(state, "adversary"):
        parts["discriminator"] = state.adversary.params
    return {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in parts.items()}


def main(_: list[str]) -> None:
    """Prints the table."""
    options: Any = flags.FLAGS
    config = options.config
    check(config)
    if not parallel.is_first_process():
        return
    rows = _rows(config, options.devices)
    shape = "x".join(map(str, config.model.image_shape))
    print(f"{config.name}: {rows} x {shape} on one of {options.devices} devices\n")
    for name, count in parameters(config).items():
        print(f"{name:28}{count:>14,} parameters")
    found = estimate(config, devices=options.devices)
    print()
    for name, size in found._asdict().items():
        note = {"gradients": "   within the values", "values": "   estimate of the traced step"}
        print(f"{name:28}{size / GIB:>14.3f} GiB{note.get(name, '')}")
    print(f"{'whole':28}{found.whole / GIB:>14.3f} GiB   estimate")
    if options.compile:
        figures = compiled(config, devices=options.devices)
        size, platform = figures.temp_size_in_bytes, jax.default_backend()
        print(f"{'values, compiled':28}{size / GIB:>14.3f} GiB   by the compiler for {platform}")


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_integer("devices", 1, "that share the batch", lower_bound=1)
    flags.DEFINE_bool("compile", False, "also compile the step, and ask the compiler")
    cli.run(main, needs=("config",))
