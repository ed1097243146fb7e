"""Pure steps of training one module that has `losses(batch, *, train)`.

They know a module's loss terms and nothing of what is inside it. Everything is written for one
device of the axis `parallel.AXIS`; `parallel.mapped` spreads it over all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from train import parallel
from train.errors import UserError
from train.state import TrainState, Window, add_to_window, empty_window

SCHEDULES = ("constant", "cosine")
# Random streams of a module: "sample" for noise drawn per example, "shared" for choices that every
# device must make alike. Both keys are the same on all devices.
RNGS = ("sample", "shared")
STEP_FIGURES = ("gradient_norm", "learning_rate")


def learning_rate(settings: Mapping[str, Any], steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup_steps`, then constant, or cosine to 0 at `steps`."""
    peak, warmup = settings["learning_rate"], settings["warmup_steps"]
    if settings["schedule"] not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UserError(f"optimizer.schedule is {settings['schedule']!r}; known: {known}")
    if settings["schedule"] == "cosine":
        if warmup >= steps:
            raise UserError(
                f"optimizer.warmup_steps is {warmup}, but the run has only {steps} steps; "
                "make it shorter than train.steps"
            )
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps)
    return optax.linear_schedule(0.0, peak, warmup) if warmup else optax.constant_schedule(peak)


def make_optimizer(settings: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, Adam or momentum SGD, decoupled weight decay, learning rate.

    Weight decay acts on kernels alone: not on biases, scales or codebooks.
    """
    cores = {
        "adam": lambda: optax.scale_by_adam(b1=settings["b1"], b2=settings["b2"]),
        "sgd": lambda: optax.trace(decay=settings["momentum"]),
    }
    if settings["name"] not in cores:
        raise UserError(f"optimizer.name is {settings['name']!r}; known: {', '.join(cores)}")
    parts = []
    if settings["clip_norm"] > 0:
        parts.append(optax.clip_by_global_norm(settings["clip_norm"]))
    parts.append(cores[settings["name"]]())
    if settings["weight_decay"] > 0:
        parts.append(optax.add_decayed_weights(settings["weight_decay"], mask=_kernels))
    parts.append(optax.scale_by_learning_rate(learning_rate(settings, steps)))
    return optax.chain(*parts)


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    batch: dict[str, jax.Array],
    *,
    average: bool,
    names: list[str],
) -> TrainState:
    """First state of a run, from its key and its first batch (the whole one, on one device).

    Bottlenecks may start from the data they see here; `average` keeps averaged parameters;
    `names` are the figures that a step measures (`measured_names`).
    """
    keys = dict(zip(("params", *RNGS), jax.random.split(key, 3), strict=True))
    variables = dict(model.init(keys, batch, train=True))
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        collections=variables,
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if average else None,
        window=empty_window(names),
    )


def measured_names(
    model: nn.Module, batch: dict[str, Any], weights: Mapping[str, float]
) -> list[str]:
    """Names of the figures a step measures; also checks that every loss term has its weight.

    Raises:
      UserError: `weights` and the module's loss terms do not match.
    """

    def terms(batch: dict[str, jax.Array]) -> tuple[dict, dict]:
        keys = {name: jax.random.key(0) for name in ("params", *RNGS)}
        # A trained step sees one batch more than `init`, and only then measures its batch.
        variables = model.init(keys, batch, train=True)
        (losses, output), _ = model.apply(
            variables, batch, train=True, method="losses", rngs=keys, mutable=True
        )
        return losses, output.metrics

    losses, metrics = jax.eval_shape(terms, batch)
    if set(losses) != set(weights):
        raise UserError(
            f"loss_weights has {', '.join(sorted(weights)) or 'nothing'}, but the model's loss "
            f"terms are {', '.join(sorted(losses))}; give one weight for each"
        )
    return sorted({"loss", "gradient_norm", "learning_rate", *losses, *metrics})


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    weights: Mapping[str, float],
    schedule: optax.Schedule,
    accumulate: int = 1,
    average_decay: float = 0.0,
    log_every: int = 1,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Window]]:
    """One device's part of some training steps: `(state, batch [steps, rows, ...])`.

    Gradients are those of the mean over the rows of all devices, so that n devices train as one.
    `accumulate` splits the rows in that many parts and adds up their gradients; EMA codebooks then
    move once a part. The window starts anew after every `log_every` steps.
    """

    def total(
        params: Any, collections: dict, batch: dict[str, jax.Array], keys: dict[str, jax.Array]
    ) -> tuple[jax.Array, tuple[dict, dict[str, jax.Array]]]:
        (losses, output), new = model.apply(
            {"params": params, **collections},
            batch,
            train=True,
            method="losses",
            rngs=keys,
            mutable=list(collections),
        )
        means = {name: jnp.mean(v) for name, v in {**losses, **output.metrics}.items()}
        loss = sum(weights[name] * means[name] for name in losses)
        return loss, (dict(new), {**means, "loss": loss})

    gradient = jax.grad(total, has_aux=True)

    def one_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, None]:
        step_key = jax.random.fold_in(key, state.step)

        def part(collections: dict, number: int | jax.Array, rows: Any) -> tuple:
            part_key = jax.random.fold_in(step_key, number)
            # The same keys on every device: noise is drawn per example of the whole batch.
            keys = {name: jax.random.fold_in(part_key, i) for i, name in enumerate(RNGS)}
            return gradient(state.params, collections, rows, keys)

        if accumulate == 1:
            gradients, (collections, means) = part(state.collections, 0, batch)
        else:

            def add(carry: tuple, xs: tuple) -> tuple[tuple, None]:
                sums, collections = carry
                g, (collections, means) = part(collections, *xs)
                return (jax.tree.map(jnp.add, sums, (g, means)), collections), None

            parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
            names = [name for name in state.window.sums if name not in STEP_FIGURES]
            zeros = jax.tree.map(
                jnp.zeros_like, (state.params, {name: state.window.sums[name] for name in names})
            )
            (sums, collections), _ = jax.lax.scan(
                add,
                (zeros, state.collections),
                (jnp.arange(accumulate), parts),
                # On CPU, convolutions are some 15 times slower inside a loop than outside.
                unroll=accumulate if jax.default_backend() == "cpu" else 1,
            )
            gradients, means = jax.tree.map(lambda x: x / accumulate, sums)
        # The local loss is differentiated, and then averaged: not the other way round.
        gradients, means = jax.lax.pmean((gradients, means), parallel.AXIS)
        state = updated(
            state,
            optimizer,
            gradients,
            means,
            schedule=schedule,
            average_decay=average_decay,
            log_every=log_every,
        )
        return state._replace(collections=collections), None

    return several(one_step)


def updated(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    gradients: Any,
    means: dict[str, jax.Array],
    *,
    schedule: optax.Schedule,
    average_decay: float,
    log_every: int,
) -> TrainState:
    """The state one step on, its parameters moved, and what was measured added to the window.

    `gradients` and `means`, scalars, are those of all devices. Other collections are left alone.
    """
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    average = state.average
    if average is not None:
        # Early on the average follows quickly, so that it forgets the random start.
        decay = jnp.minimum(average_decay, step / (step + 10.0))
        average = optax.incremental_update(params, average, 1 - decay)
    values = {
        **means,
        "gradient_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
    }
    window = add_to_window(state.window, values, step=step, fresh=state.step % log_every == 0)
    return state._replace(
        step=step, params=params, opt_state=opt_state, average=average, window=window
    )


def several(
    one_step: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, None]],
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Window]]:
    """`(state, batch [steps, rows, ...])` from a step `(state, batch [rows, ...])`."""

    def train_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Window]:
        if jax.tree.leaves(batch)[0].shape[0] == 1:
            state, _ = one_step(state, jax.tree.map(lambda x: x[0], batch))
        else:
            state, _ = jax.lax.scan(one_step, state, batch)
        # A second copy of the window, because the state's is donated to the next call.
        return state, jax.tree.map(jnp.copy, state.window)

    return train_step


def make_sums_step(
    model: nn.Module, evaluators: Mapping[str, Any]
) -> Callable[[tuple[Any, jax.Array], dict[str, jax.Array]], dict[str, dict[str, jax.Array]]]:
    """One device's part of evaluating a batch: `((variables, key), batch) -> sums over devices`."""

    def sums_step(
        state: tuple[Any, jax.Array], batch: dict[str, jax.Array]
    ) -> dict[str, dict[str, jax.Array]]:
        variables, key = state
        sums = {
            name: evaluator.sums(model, variables, batch, jax.random.fold_in(key, i))
            for i, (name, evaluator) in enumerate(evaluators.items())
        }
        return jax.lax.psum(sums, parallel.AXIS)

    return sums_step
