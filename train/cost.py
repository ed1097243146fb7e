"""What training costs: seconds for a step on this machine, and numbers to learn."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from train import parallel, runs, steps
from train.data.pipeline import Batches
from train.data.sources import load_source
from train.data.transforms import make_transform


class Cost(NamedTuple):
    """What a run's training costs.

    Attributes:
      seconds: of a step on all devices, the median of those timed; data are ready.
      parameters: numbers that the optimiser moves.
    """

    seconds: float
    parameters: int


def training_cost(config: ConfigDict, *, timed: int = 20) -> Cost:
    """Compiles the run's own training step and times it on one batch, over and over.

    Args:
      config: of a run.
      timed: steps whose median is taken, after two that are not.
    """
    source, transform = load_source(config.data, "train"), make_transform(config.data, "train")
    batch = Batches(source, batch_size=config.train.batch_size, seed=0, transform=transform)[0]
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    names = list(runs.abstract_state(config).window.sums)
    create = runs.make_state(config, runs.build_model(config), optimizer, names)
    state = parallel.place(jax.jit(create)(jax.random.key(config.seed), batch))
    model = runs.build_model(config, axis_name=parallel.AXIS)
    step = parallel.mapped(runs.make_train_step(config, model, optimizer), donate=True)
    calls = config.train.steps_per_call
    stacked = jax.tree.map(lambda x: np.stack([x] * calls), batch)
    seconds: list[Any] = []
    for _ in range(timed + 2):
        ready = parallel.shard(stacked, axis=1)
        start = time.perf_counter()
        state, window = step(state, ready)
        jax.block_until_ready((state, window))
        seconds.append((time.perf_counter() - start) / calls)
    return Cost(float(np.median(seconds[2:])), count_parameters(state.params))


def count_parameters(params: Any) -> int:
    """Numbers in a tree of arrays."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
