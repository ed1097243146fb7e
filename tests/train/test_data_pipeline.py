"""Batches as a function of (seed, step), over processes and epochs; reading ahead; evaluation."""

import gc
import threading
import time

import numpy as np
import pytest

from train.data import (
    Batches,
    EvaluationBatches,
    InMemory,
    Subset,
    evaluation_batches,
    load_source,
    make_transform,
    prefetch,
)
from train.errors import UserError


def numbered(count):
    return InMemory({"image": np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)})


def numbers(batch):
    return [int(n) for n in batch["image"][:, 0, 0, 0]]


def noisy(example, random):
    """A transform that shows which random numbers an example got."""
    return {**example, "noise": random.random(3)}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_every_epoch_is_a_permutation_and_none_is_like_another():
    batches = Batches(numbered(12), batch_size=4, seed=3)
    epochs = [[n for i in range(3) for n in numbers(batches[3 * e + i])] for e in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = Batches(numbered(12), batch_size=4, seed=4)
    assert numbers(other[0]) != numbers(batches[0])


def test_batches_run_on_over_the_end_of_an_epoch():
    batches = Batches(numbered(10), batch_size=4, seed=0)
    stream = [n for step in range(15) for n in numbers(batches[step])]
    for epoch in range(6):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_a_batch_may_be_larger_than_the_set():
    batch = numbers(Batches(numbered(3), batch_size=8, seed=0)[5])
    stream = Batches(numbered(3), batch_size=1, seed=0)
    assert batch == [numbers(stream[i])[0] for i in range(40, 48)]


def test_a_batch_depends_on_seed_and_step_alone():
    first = Batches(numbered(50), batch_size=8, seed=1, transform=noisy)
    there = [first[step] for step in range(20)]
    second = Batches(numbered(50), batch_size=8, seed=1, transform=noisy)
    for step in (17, 3, 19, 0):
        same(there[step], second[step])
    drawn = np.concatenate([batch["noise"] for batch in there])
    assert len(np.unique(drawn)) == drawn.size  # also where an example comes again
    third = Batches(numbered(50), batch_size=8, seed=2, transform=noisy)
    assert not np.isin(third[0]["noise"], drawn).any()


@pytest.mark.parametrize("transform", [None, noisy])
@pytest.mark.parametrize("processes", [2, 4])
def test_the_processes_batches_make_up_the_global_one(transform, processes):
    whole = Batches(numbered(10), batch_size=8, seed=0, transform=transform)
    parts = [
        Batches(
            numbered(10),
            batch_size=8,
            seed=0,
            transform=transform,
            process_index=index,
            process_count=processes,
        )
        for index in range(processes)
    ]
    for step in range(5):
        local = [part[step] for part in parts]
        assert all(len(batch["image"]) == 8 // processes for batch in local)
        joined = {k: np.concatenate([batch[k] for batch in local]) for k in local[0]}
        same(joined, whole[step])


def test_in_memory_and_one_by_one_give_the_same_batches():
    data = {"source": "digits", "image_shape": (8, 8, 1)}
    source = load_source(data, "train")
    slow = Subset(source, np.arange(len(source)))
    for step in (0, 100):
        fast = Batches(source, batch_size=32, seed=0)[step]
        same(fast, Batches(slow, batch_size=32, seed=0)[step])
        assert fast["label"].dtype == np.int32


def test_streams_are_those_of_a_fresh_generator():
    batch = Batches(numbered(10), batch_size=4, seed=7, transform=noisy)[2]
    for row, element in enumerate(range(8, 12)):
        fresh = np.random.Generator(np.random.Philox(key=[7, element]))
        np.testing.assert_array_equal(batch["noise"][row], fresh.random(3))


def test_wrong_batch_sizes_are_told():
    for make in (
        lambda **k: Batches(numbered(3), seed=0, **k),
        lambda **k: EvaluationBatches(numbered(3), **k),
    ):
        with pytest.raises(UserError, match=r"batch size is 6; .* 4 processes"):
            make(batch_size=6, process_count=4)
        with pytest.raises(UserError, match="batch size is 0"):
            make(batch_size=0)
    with pytest.raises(UserError, match="seed is -1"):
        Batches(numbered(3), batch_size=1, seed=-1)


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def assert_threads_end():
    limit = time.monotonic() + 5
    while reading_threads() and time.monotonic() < limit:
        time.sleep(0.01)
    assert not reading_threads()


def test_reading_ahead_gives_the_steps_in_order():
    batches = Batches(numbered(50), batch_size=8, seed=1, transform=noisy)
    steps = list(prefetch(batches, start=5, stop=30))
    assert [step for step, _ in steps] == list(range(5, 30))
    for step, batch in steps:
        same(batch, batches[step])
    assert list(prefetch(batches, start=5, stop=5)) == []
    assert_threads_end()


def test_threads_end_when_the_iterator_is_dropped():
    batches = Batches(numbered(50), batch_size=8, seed=1)
    ahead = prefetch(batches, start=10**9, stop=10**12)
    assert next(ahead)[0] == 10**9
    assert reading_threads()
    del ahead
    gc.collect()
    assert_threads_end()


def test_no_more_is_read_ahead_than_the_buffer_holds():
    read = []

    class Counting:
        def __getitem__(self, step):
            read.append(step)
            return {}

    ahead = prefetch(Counting(), start=0, stop=1000, threads=2, buffer=3)
    next(ahead)
    time.sleep(0.2)
    assert max(read) <= 3
    ahead.close()


def test_an_error_of_a_reading_thread_reaches_the_caller_at_its_step():
    def broken(example, _random):
        if example["image"][0, 0, 0] == 7:
            raise UserError("image 7 is broken")
        return example

    batches = Batches(numbered(20), batch_size=1, seed=0, transform=broken)
    order = Batches(numbered(20), batch_size=1, seed=0)
    bad = next(step for step in range(20) if numbers(order[step]) == [7])
    ahead = prefetch(batches, start=0, stop=100)
    for step in range(bad):
        assert next(ahead)[0] == step
    with pytest.raises(UserError) as caught:
        next(ahead)
    assert str(caught.value) == "image 7 is broken"
    assert_threads_end()


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", [1, 5, 8, 9])
def test_evaluation_sees_every_example_once(count, processes):
    source = numbered(count)
    parts = [
        EvaluationBatches(source, batch_size=4, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    assert [len(part) for part in parts] == [-(-count // 4)] * processes
    seen = []
    for local in zip(*parts, strict=True):
        for batch in local:
            assert batch["mask"].dtype == np.float32
            assert len(batch["image"]) == len(batch["mask"]) == 4 // processes
            real = [n for n, mask in zip(numbers(batch), batch["mask"], strict=True) if mask]
            filling = [n for n, m in zip(numbers(batch), batch["mask"], strict=True) if not m]
            assert set(filling) <= {count - 1}
            seen += real
    assert seen == list(range(count))


def test_evaluation_read_ahead_is_the_same():
    data = {"source": "digits", "image_shape": (8, 8, 1), "holdout": 0.2, "binarise": "stochastic"}
    source, transform = load_source(data, "test"), make_transform(data, "test")
    ahead = list(evaluation_batches(source, batch_size=100, transform=transform))
    plain = EvaluationBatches(source, batch_size=100, transform=transform)
    assert len(ahead) == len(plain) == 4
    for got, expected in zip(ahead, plain, strict=True):
        same(got, expected)
    assert sum(float(batch["mask"].sum()) for batch in ahead) == len(source)
    assert_threads_end()
