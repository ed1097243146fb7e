"""PartitionVAE's subresolution: what a smaller decoder image saves, and what it cannot show.

    python benchmarks/subresolution.py

Three models that differ in f alone take turns at training on the same 64x64 grey crops of
photographs; then each reconstructs crops of parts that were not trained on. Printed are the median
time of a step, the operations of a step as XLA counts them, parameters, the error, and the floor
under it: no decoder of pixels that are copied f x f times comes below.
"""

import argparse
import os
import statistics
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from medians import compare
from skimage import color, data

import models
from bottlenecks import block_mean_floor

SIDE, BATCH = 64, 32
FACTORS = (1, 2, 4)
STEPS = 5  # of one model in its turn


def crops(count: int, part: slice) -> np.ndarray:
    """Random crops of a part of the columns, in 256ths, of four photographs."""
    rng = np.random.default_rng(0)
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    found = np.empty((count, SIDE, SIDE, 1), np.float32)
    for i in range(count):
        photo = color.rgb2gray(photos[i % len(photos)])
        width = photo.shape[1]
        photo = photo[:, part.start * width // 256 : part.stop * width // 256]
        top, left = (rng.integers(0, n - SIDE + 1) for n in photo.shape)
        found[i, ..., 0] = photo[top : top + SIDE, left : left + SIDE]
    return found


class Training:
    """A model with subresolution f, trained a few steps at a time."""

    def __init__(self, f: int, images: np.ndarray) -> None:
        self.images = jnp.asarray(images)
        self.model = models.build(
            {
                "image_shape": (SIDE, SIDE, 1),
                "backbone": {"name": "partition", "convs": ((5, 8), (5, 8)), "subresolution": f},
                "bottleneck": {"name": "partition", "partitions": (5, 5, 4, 3, 2, 1)},
                "likelihood": {"name": "gaussian"},
                "data_variance": float(images.var()),
                "dtype": "float32",
                "remat": False,
            }
        )
        keys = {"params": jax.random.key(0), "sample": jax.random.key(0)}
        self.params = jax.jit(lambda x: self.model.init(keys, {"image": x}, train=True))(
            self.images[:1]
        )
        optimizer = optax.adam(1e-3)
        self.state, self.step = optimizer.init(self.params), 0

        def loss(params, images, key):
            rngs = {"sample": key}
            options = {"train": True, "method": "losses", "rngs": rngs}
            losses, _ = self.model.apply(params, {"image": images}, **options)
            return sum(jnp.mean(term) for term in losses.values())

        def train(params, state, images, step):
            key = jax.random.fold_in(jax.random.key(1), step)
            rows = jax.random.randint(key, (BATCH,), 0, len(images))
            gradient = jax.grad(loss)(params, images[rows], key)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(params, updates), state

        self.train = jax.jit(train).lower(self.params, self.state, self.images, 0).compile()

    def run(self) -> None:
        for _ in range(STEPS):
            step = jnp.asarray(self.step, jnp.int32)
            self.params, self.state = self.train(self.params, self.state, self.images, step)
            self.step += 1
        jax.block_until_ready(self.params)

    def error(self, images: np.ndarray) -> float:
        again = self.model.apply(self.params, images, method="reconstruct")
        return float(jnp.mean(jnp.square(jnp.clip(again, 0, 1) - images)))


def main(rounds: int) -> None:
    """Prints the table."""
    train, test = crops(1024, slice(0, 192)), crops(256, slice(192, 256))
    runs = {f: Training(f, train) for f in FACTORS}
    seconds = compare({str(f): runs[f].run for f in FACTORS}, rounds=rounds)
    print(f"{len(os.sched_getaffinity(0))} cores, {jax.devices()[0].device_kind}")
    print(
        f"after {runs[1].step} steps; the mean image's MSE is "
        f"{float(np.mean((test - train.mean(0)) ** 2)):.5f}"
    )
    print("f   step, ms (range)        10^9 operations   parameters   test MSE    floor")
    for f in FACTORS:
        times = [1e3 * s / STEPS for s in seconds[str(f)]]
        print(
            f"{f}   {statistics.median(times):6.1f} ({min(times):.1f} to {max(times):.1f})"
            f"{runs[f].train.cost_analysis()['flops'] / 1e9:14.2f}"
            f"{sum(a.size for a in jax.tree.leaves(runs[f].params)):17,}"
            f"{runs[f].error(test):13.5f}"
            f"{float(jnp.mean(block_mean_floor(test, f))):10.5f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"rounds are 1 or more; got {options.rounds}")
    main(options.rounds)
