"""Four virtual CPU devices, named before jax starts, light compilation, a core for each process."""

import os
import subprocess
import sys

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import jax
import pytest

# XLA's older way to write a CPU's fused loops, which takes it less than half the time.
PLAIN_LOOPS = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Before any test: how programs are compiled, and where they run."""
    if config.option.markexpr == "not slow":
        compile_lightly()
    keep_to_one_core()


def compile_lightly():
    """Few optimisations and plain loops, here and in the programs that tests start.

    Most of what the tests do is compile programs that run once or for a few steps: the first halves
    the time, the second saves a third of the rest. tests/bottlenecks have all optimisations, and
    with `XLA_FLAGS= python -m pytest tests/bottlenecks` no plain loops. What is always compiled as
    users do: notebooks, and learning runs, `-m slow`.
    """
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if "XLA_FLAGS" not in os.environ and knows(PLAIN_LOOPS):
        os.environ["XLA_FLAGS"] = PLAIN_LOOPS  # also of the test processes started after this one


def knows(flag):
    """Whether this XLA has the flag; it aborts a process that gives it one that it has not."""
    program = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flag}
    return not subprocess.run(program, env=environment, capture_output=True).returncode


def keep_to_one_core():
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
