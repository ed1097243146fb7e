"""The library's own loop, `train_and_evaluate` as a user runs it; started by a driver beside it.

It runs unchanged, with its data, progress bar and log. Only between rounds it is held, inside the
call of a training step.
"""

import importlib
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import numpy as np
from turns import Turns

from train import loop, parallel

MANY = 1_000_000


class Waiting(loop.Progress):
    """The loop's progress bar, read from outside."""

    seconds = 0.0

    def waited(self, seconds: float) -> None:
        Waiting.seconds += seconds
        super().waited(seconds)


def held_between_rounds(turns: Turns, steps_per_call: int) -> None:
    """Has the loop wait for its turn whenever a round's last step is done.

    A round that is no multiple of `steps_per_call` lasts to the end of its last call.
    """
    mapped = parallel.mapped

    def mapped_and_held(function, *, donate=False):
        run = mapped(function, donate=donate)
        if not donate:
            return run  # an evaluation step
        errors, goal, first = [], 1, True
        start = waited = 0.0

        def call(state, batch):
            nonlocal goal, first, start, waited
            if not start:
                start = time.perf_counter()
            state, window = run(state, batch)
            errors.append(window.last["nmse"])
            if len(errors) * steps_per_call < goal:
                return state, window
            jax.block_until_ready(state)
            seconds = time.perf_counter() - start
            error = float(np.mean([float(e) for e in errors]))
            if first:
                device = jax.devices()[0].device_kind
                turns.report(first_step=seconds, error=error, device=device)
            else:
                turns.report(seconds=seconds, waited=Waiting.seconds - waited, error=error)
            errors.clear()
            first = False
            goal = turns.wait()
            if goal is None:
                os._exit(0)  # nothing of this run is kept
            start, waited = time.perf_counter(), Waiting.seconds
            return state, window

        return call

    parallel.mapped = mapped_and_held
    loop.Progress = Waiting


def main(name: str, source: str) -> None:
    turns = Turns()
    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.source = source
    if source == "synthetic":
        config.data.train = config.data.test = "train"
        config.model.data_variance = 0.0
    config.train.steps = config.checkpoint_every = MANY
    config.evaluation.every = 0
    held_between_rounds(turns, config.train.steps_per_call)
    with tempfile.TemporaryDirectory() as workdir:
        loop.train_and_evaluate(config, workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])
