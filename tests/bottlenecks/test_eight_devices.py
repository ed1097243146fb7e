"""The life of a codebook on eight devices is that on one: run in a process that has eight."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_eight_devices_are_one():
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["pmap", "shard_map"]


def main():
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, PartitionSpec

    from bottlenecks.quantization import (
        code_counts,
        kmeans,
        perplexity,
        quantize,
        revive_dead_codes,
        start_codebook,
        update_codebook,
    )
    from bottlenecks.scalar_quantization import lookup_free_quantize

    assert jax.device_count() == 8
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(16, 5, 4)), jnp.float32)
    mask = jnp.asarray(rng.uniform(size=(16, 5)) < 0.7, jnp.float32)
    mask = mask.at[2:4].set(0)  # the second device has nothing to add

    def life(x, m, axis_name=None):
        """Start, four updates, revival, one update more; and what is told of the codes."""
        over = dict(axis_name=axis_name, mask=m)
        start = kmeans(jax.random.key(0), x, 12, **over)
        state = start_codebook(start.codebook, count=start.counts)
        near = 0.3 * x  # the outer codes are used no more
        for _ in range(4):
            index = quantize(near, state.codebook).index
            state = update_codebook(state, near, index, decay=0.5, **over)
        revived = revive_dead_codes(jax.random.key(1), state, x, threshold=0.8, **over)
        index = quantize(x, revived.state.codebook).index
        state = update_codebook(revived.state, x, index, **over)
        counts = code_counts(index, 12, **over)
        bits = lookup_free_quantize(x, inverse_temperature=0.5, **over)
        return start, revived.count, state, counts, perplexity(counts), bits.batch_entropy

    one = jax.jit(life)(features, mask)
    assert one[1] > 0  # there was something to revive
    f = functools.partial(life, axis_name="batch")
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = PartitionSpec("batch")
    shard_map = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=split, out_specs=PartitionSpec()))
    pmap = jax.pmap(f, axis_name="batch")
    eighths = (features.reshape(8, 2, 5, 4), mask.reshape(8, 2, 5))
    found = jax.block_until_ready(pmap(*eighths))
    for device in range(8):
        compare(jax.tree.map(lambda x, i=device: x[i], found), one)
    print("pmap")
    compare(jax.block_until_ready(shard_map(features, mask)), one)
    print("shard_map")


def compare(found, expected):
    import jax
    import numpy as np

    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Sums over devices are added in another order.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    main()
