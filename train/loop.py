"""Trains a run from its config, from the first step to the pictures; read it from top to bottom."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from train import parallel, report, runs, steps
from train.checkpoints import Checkpoints
from train.checks import check
from train.data.codes import pin_encoder
from train.data.pipeline import Batches, prefetch
from train.data.sources import load_source
from train.data.transforms import make_transform
from train.errors import UserError
from train.evaluate import (
    Stopped,
    check_evaluators,
    make_evaluation,
    measure_baselines,
    save_evaluation,
)
from train.interrupts import Interrupts
from train.progress import Progress
from train.state import TrainState, Window, evaluation_variables
from train.writers import open_writer, versions

log = logging.getLogger("train")


def train_and_evaluate(config: ConfigDict, workdir: str) -> TrainState:
    """Trains a model as the config says, or goes on where the run in `workdir` stopped.

    The same call again resumes from the newest checkpoint and ends, on the same kind and number of
    devices, with the same bits as a run that was never stopped. SIGTERM or one Ctrl-C saves and
    returns early.

    Args:
      config: see `configs/base.py`.
      workdir: the run's folder, local or a bucket.

    Returns:
      The last state.

    Raises:
      UserError: the config, the data or the machine does not allow the run; nothing is lost.
    """
    # ------------------------------------------------------------ checks, before any work
    check(config)
    pin_encoder(config.data)
    abstract = runs.abstract_state(config)
    check_evaluators(config, abstract)
    runs.check_workdir(workdir, config, abstract)

    # ------------------------------------------------------------ data
    log.info(
        "%d devices (%s), data: %s", jax.device_count(), jax.default_backend(), config.data.source
    )
    source = load_source(config.data, "train")
    transform = make_transform(config.data, "train")
    baselines = measure_baselines(config, source, transform)
    shared = {"batch_size": config.train.batch_size, "seed": config.seed, "transform": transform}
    batches = Batches(
        source, process_index=jax.process_index(), process_count=jax.process_count(), **shared
    )

    # ------------------------------------------------------------ model, steps, evaluation
    model = runs.build_model(config, axis_name=parallel.AXIS)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    train_step = parallel.mapped(runs.make_train_step(config, model, optimizer), donate=True)
    evaluate = make_evaluation(config, model, names=tuple(config.evaluation.evaluators))
    evaluate_finally = make_evaluation(
        config, model, names=runs.final_evaluators(config), baselines=baselines
    )

    # ------------------------------------------------------------ from here on, files are written
    path = runs.open_workdir(workdir)
    with (
        Interrupts() as interrupts,
        Checkpoints(path / "checkpoints", keep=config.keep_checkpoints) as checkpoints,
    ):
        # -------------------------------------------------------- state
        # The run's own newest checkpoint; else the parameters of another run; else a fresh start.
        state = checkpoints.restore(abstract, repair=True)
        if state is not None:
            log.info("going on from step %d", int(state.step))
        else:
            log.info("starting")
            # Every process computes the same start, from the whole of the first batch.
            first = Batches(source, **shared)[0]
            create = jax.jit(
                runs.make_state(
                    config, runs.build_model(config), optimizer, list(abstract.window.sums)
                )
            )
            state = create(jax.random.fold_in(jax.random.key(config.seed), 0), first)
            if config.init_from:
                state = runs.start_from(state, config.init_from)
            log.info("\n%s", parameter_overview.get_parameter_overview(state.params))
        state = parallel.place(state)
        runs.save_config(path, config)
        start = int(state.step)
        writer = open_writer(path, resume_step=start)
        progress = Progress(total=config.train.steps, done=start)

        # -------------------------------------------------------- what happens between steps
        def settle(step: int, window: Window, *, look: bool = False) -> None:
            """Looks at the figures of a finished step; stops if they are not finite."""
            progress.move(step)
            due = _due(step, config.log_every)
            if not (look or due or progress.wants_figures()):
                jax.block_until_ready(window.steps)
                return
            seen = jax.device_get(window)
            # Not where the clock alone made it look: all processes have to stop at the same step.
            if seen.broken >= 0 and (look or due):
                raise UserError(
                    f"the loss or its gradient is not finite since step {seen.broken} (found after "
                    f"step {step}); {checkpoints.last_good()}. Try a smaller "
                    "optimizer.learning_rate, optimizer.clip_norm=1, or more warm-up"
                )
            progress.show(seen.last)
            if due:
                writer.write(step, "train", {k: v / seen.steps for k, v in seen.sums.items()})

        def save() -> None:
            checkpoints.save(state, {"config": config.to_dict(), "versions": versions()})

        def measure(step: int) -> None:
            """Evaluates after `step`, unless that has been done and written."""
            final = step == config.train.steps
            if not (final or _due(step, config.evaluation.every)) or writer.has(step, "test"):
                return
            evaluated = (evaluate_finally if final else evaluate)(
                evaluation_variables(state), stop=interrupts.requested
            )
            if final:
                save_evaluation(path, step, evaluated)
            writer.write(step, "test", evaluated.values)

        pictures_of = report.step_pictures(path, config)

        def draw(step: int) -> None:
            """Draws test images after `step`, unless that has been done."""
            if _due(step, config.pictures_every) and parallel.is_first_process():
                pictures_of(step, evaluation_variables(state))

        # -------------------------------------------------------- the loop
        # DO NOT CHANGE THE ORDER: log, save, evaluate, draw. A run stopped anywhere in it and
        # started again then writes the same lines as one that was not stopped.
        stopped = False
        try:
            measure(start)
            draw(start)
            before = None
            for step, batch in _device_batches(config, batches, start, progress):
                state, window = train_step(state, batch)
                # The figures of the call before: asking for this one's would leave the device idle.
                if before is not None:
                    settle(*before)
                before = (step, window)
                stop = interrupts.requested()
                last = step == config.train.steps
                saves = last or _due(step, config.checkpoint_every)
                evaluates = last or _due(step, config.evaluation.every)
                if stop or saves or evaluates:
                    settle(*before, look=True)
                    before = None
                if saves:
                    save()
                if stop:
                    raise Stopped
                if evaluates:
                    measure(step)
                draw(step)
        except Stopped:
            stopped = True
            save()
            checkpoints.wait()
            log.info("told to stop: saved step %d; the same command goes on", int(state.step))
        finally:
            speed = progress.close()
            if parallel.is_first_process():
                log.info("%s", speed)
            writer.close()

    # ------------------------------------------------------------ finish
    if not stopped and parallel.is_first_process():
        report.finish(path, config, evaluation_variables(state))
    return state


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _device_batches(
    config: ConfigDict, batches: Batches, start: int, progress: Progress
) -> Iterator[tuple[int, Any]]:
    """Yields (steps done after it, batch on the devices) for each call, one ahead of its use.

    Several steps in one call are stacked: `[devices, steps, rows, ...]`.
    """
    ahead, group = None, []
    host = iter(prefetch(batches, start=start, stop=config.train.steps))
    for _ in range(start, config.train.steps):
        asked = time.monotonic()
        step, batch = next(host)
        progress.waited(time.monotonic() - asked)
        group.append(batch)
        if len(group) == config.train.steps_per_call:
            stacked = jax.tree.map(lambda *x: np.stack(x), *group)
            ready, group = (step + 1, parallel.shard(stacked, axis=1)), []
            if ahead is not None:
                yield ahead
            ahead = ready
    if ahead is not None:
        yield ahead
