import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

DEVICES = 4


@pytest.fixture(autouse=True, scope="module")
def compiled_as_users_do():
    """The functions' values are those of programs with all of XLA's optimisations."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture(autouse=True)
def strict_promotion():
    """No silent widening of dtypes or ranks inside the pure functions."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=["vmap", "pmap", "shard_map"])
def on_devices(request):
    """Runs f over the axis "batch" on quarters of its arguments; its results must not differ.

    Every call is awaited: queued collectives of several CPU devices can deadlock.
    """

    def quarters(x):
        return x.reshape(DEVICES, x.shape[0] // DEVICES, *x.shape[1:])

    def run(f, *arguments):
        if request.param == "shard_map":
            mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))
            split = PartitionSpec("batch")
            g = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=PartitionSpec()))
            return jax.block_until_ready(g(*arguments))
        if request.param == "pmap":
            g = jax.pmap(f, axis_name="batch")
        else:
            g = jax.jit(jax.vmap(f, axis_name="batch"))
        results = jax.block_until_ready(g(*map(quarters, arguments)))
        for leaf in jax.tree.leaves(results):
            for device in range(1, DEVICES):
                np.testing.assert_array_equal(leaf[device], leaf[0])
        return jax.tree.map(lambda x: x[0], results)

    return run
