"""Four virtual CPU devices, named before jax starts, and one core for each test process."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import jax
import pytest


def pytest_configure():
    """Gives each of several test processes a core of its own, and the programs it starts.

    Else each has as many threads as there are cores, which wait for one another: two processes on
    two cores then take up to five times as long as they would alone.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")  # gw0, gw1 and so on
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= int(os.environ["PYTEST_XDIST_WORKER_COUNT"]):
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(autouse=True, scope="module")
def programs_are_freed():
    """Of each file: a process that keeps thousands runs out of memory maps and is aborted."""
    yield
    jax.clear_caches()


@pytest.fixture
def compiled_lightly():
    """Programs that run once are compiled with few optimisations, in half the time."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
