"""Batches: random access by step, so that where a run stands is its step and nothing else."""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from train.data.random_access import InMemory, Source
from train.data.transforms import Transform
from train.errors import UserError

Batch = dict[str, np.ndarray]


class Streams:
    """Random numbers of their own for every (seed, index), whatever was drawn before.

    The same numbers as `Generator(Philox(key=[seed, index]))`, of which one is kept and set anew:
    making one takes six times as long, longer than most transforms.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
        self.fresh = self.generator.bit_generator.state

    def __getitem__(self, index: int) -> np.random.Generator:
        """The generator of `index`, valid until the next is asked for."""
        key = np.array([self.seed, index], np.uint64)
        state = {**self.fresh["state"], "key": key}
        self.generator.bit_generator.state = {**self.fresh, "state": state}
        return self.generator


def gather(
    source: Source, indices: np.ndarray, transform: Transform | None, seed: int, keys: np.ndarray
) -> Batch:
    """The examples at `indices`, stacked; example i's random numbers come from (seed, keys[i])."""
    if transform is None and isinstance(source, InMemory):
        return source[indices]
    examples = [source[int(index)] for index in indices]
    if transform is not None:
        streams = Streams(seed)
        examples = [
            transform(example, streams[int(key)])
            for example, key in zip(examples, keys, strict=True)
        ]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class Batches:
    """Training batches without end: `[step]` is this process's rows of the global batch of a step.

    Elements are counted through from step 0, over the ends of epochs, none dropped: element g is
    example g mod n of epoch g // n, whose order is a permutation by (seed, epoch). A batch so
    depends on (seed, step) alone; element g's random numbers depend on (seed, g), so the global
    batch is the same however many processes share it. `batch_size` is global.

    Raises:
        UserError: where the batch size is not a multiple of the processes, or the seed negative.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        transform: Transform | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        if seed < 0:
            raise UserError(f"the seed is {seed}; expected 0 or more")
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.transform = transform
        self.local_rows = _local_rows(batch_size, process_index, process_count)
        self._order = functools.lru_cache(maxsize=4)(
            lambda epoch: np.random.default_rng([seed, epoch]).permutation(len(source))
        )

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step: arrays `[batch_size / process_count, ...]`."""
        elements = step * self.batch_size + self.local_rows
        epochs, positions = np.divmod(elements, len(self.source))
        indices = np.empty_like(elements)
        for epoch in range(epochs[0], epochs[-1] + 1):
            here = epochs == epoch
            indices[here] = self._order(epoch)[positions[here]]
        return gather(self.source, indices, self.transform, self.seed, elements)


class EvaluationBatches:
    """Every example once, in order; the last batch is filled up, and "mask" says with what.

    "mask" is float32 `[batch]`, 1 for an example and 0 for filling, which repeats the last one. All
    processes get the same number of batches, `len()`. Random numbers depend on the example's index
    alone.

    Raises:
        UserError: where the batch size is not a multiple of the processes.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        transform: Transform | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.transform = transform
        self.local_rows = _local_rows(batch_size, process_index, process_count)

    def __len__(self) -> int:
        """The number of batches, the same on all processes."""
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """Arrays `[batch_size / process_count, ...]`, "mask" among them."""
        if not 0 <= step < len(self):
            raise IndexError(step)  # ends a for loop
        elements = step * self.batch_size + self.local_rows
        indices = np.minimum(elements, len(self.source) - 1)
        batch = gather(self.source, indices, self.transform, 0, indices)
        return {**batch, "mask": (elements < len(self.source)).astype(np.float32)}


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    transform: Transform | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """The batches of `EvaluationBatches` in order, read ahead by threads."""
    batches = EvaluationBatches(
        source,
        batch_size=batch_size,
        transform=transform,
        process_index=process_index,
        process_count=process_count,
    )
    ahead = prefetch(batches, start=0, stop=len(batches), threads=threads)
    return (batch for _, batch in ahead)


def prefetch(
    batches: Batches | EvaluationBatches,
    *,
    start: int,
    stop: int,
    threads: int = 2,
    buffer: int = 4,
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) for the steps from `start` up to `stop`, read ahead by `threads` threads.

    At most `buffer` batches are held. An error in a thread reaches the caller at its step. The
    threads end with the iterator.
    """
    # Grain spends about 0.3 ms on an element whatever it is, so a batch is its element.
    steps = grain.MapDataset.source(_Steps(batches, start, stop))
    iterator = iter(
        steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer))
    )
    try:
        yield from iterator
    finally:
        iterator.close()


class _Steps:
    """A stretch of steps as a source for grain."""

    def __init__(self, batches: Batches | EvaluationBatches, start: int, stop: int) -> None:
        self.batches = batches
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __getitem__(self, index: int) -> tuple[int, Batch]:
        step = self.start + int(index)
        return step, self.batches[step]


def _local_rows(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """Which rows of the global batch are this process's: a contiguous share."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"the batch size is {batch_size}; expected a multiple of the {process_count} "
            "processes that share it"
        )
    local = batch_size // process_count
    return np.arange(process_index * local, (process_index + 1) * local)
