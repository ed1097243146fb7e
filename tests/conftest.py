"""Four virtual CPU devices, named before jax starts."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import jax
import pytest


@pytest.fixture
def compiled_lightly():
    """Programs that run once are compiled with few optimisations, in half the time."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
