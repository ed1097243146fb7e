"""Four virtual CPU devices, named before jax starts, light compilation, a core for each process."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import jax
import pytest

# XLA's older way to write a CPU's fused loops, which takes it less than half the time.
PLAIN_LOOPS = "xla_cpu_use_fusion_emitters"


def pytest_configure():
    """Before any test."""
    keep_to_one_core()


@pytest.fixture(autouse=True, scope="session")
def compiled_lightly(pytestconfig):
    """Few optimisations and plain loops, here and in the programs that tests start.

    Most of what the tests do is compile programs that run once or for a few steps: the first halves
    the time, the second saves a third of the rest. What is compiled as users do: tests/bottlenecks,
    notebooks, and learning runs, `-m slow`.
    """
    if pytestconfig.option.markexpr != "not slow":
        return
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    if plain_loops_go_with_few_optimisations():
        # Of the programs started from here on: XLA reads it once, and has in this process.
        os.environ.setdefault("XLA_FLAGS", f"--{PLAIN_LOOPS}=false")


def plain_loops_go_with_few_optimisations():
    """Sees to it, and says whether it could: XLA's flags are for good, JAX's setting is not."""
    plain = {PLAIN_LOOPS: False}
    try:
        from jax._src import compiler  # no public way to options of every program

        usual = compiler.get_compile_options
        jax.jit(lambda x: x, compiler_options=plain)(0)
    except (ImportError, AttributeError, jax.errors.JaxRuntimeError):
        return False  # another JAX or XLA: the tests take longer

    def options(*args, env_options_overrides=None, **kwargs):
        if jax.config.read("jax_disable_most_optimizations"):
            env_options_overrides = plain | dict(env_options_overrides or {})
        return usual(*args, env_options_overrides=env_options_overrides, **kwargs)

    compiler.get_compile_options = options
    return True


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
