"""How many steps an SC-VAE's coder needs: quality and cost over T.

    python benchmarks/sparse_depth.py [--steps 1500] [--seeds 1]

Trains `configs/scvae_digits.py` with T in {1, 4, 16, 30} steps, in our default mode (FISTA on a
learned dictionary) and as the preprint's second version (a fixed orthonormal dictionary, LISTA's
weights learned), and prints for each: the test split's normalised error, the entries of a code that
are not 0, how far the code's objective is above its minimum on the trained dictionary (FISTA,
2,000 steps), and the time of encoding 128 images (median of 20 calls). Then: what depth does to an
orthonormal dictionary without learning.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bottlenecks import sparse
from bottlenecks.dictionaries import dct_dictionary
from bottlenecks.learned_ista import lista, start_lista
from configs import scvae_digits
from train import latents, runs
from train.loop import train_and_evaluate

DEPTHS = (1, 4, 16, 30)
MODES = ("fista", "paper_v2")


def excess(run: runs.Run, images: np.ndarray) -> float:
    """F(z) over its minimum, less 1, for the codes of images, on the run's own dictionary."""
    z, state = run.model.apply(
        run.variables,
        images,
        method=lambda m, image: m.bottleneck(m.encode(image), train=False).code,
        mutable=["intermediates"],
    )
    (e,) = state["intermediates"]["bottleneck"]["signals"]
    D = run.model.apply(run.variables, method=lambda m: m.bottleneck.dictionary())
    alpha = run.config.model.bottleneck.penalty
    best = sparse.fista(e, D, penalty=alpha, iterations=2000).code
    found, least = (jnp.sum(sparse.objective(e, D, code, penalty=alpha)) for code in (z, best))
    return float(found / least) - 1


def encoding_time(run: runs.Run, images: np.ndarray) -> float:
    """Milliseconds, the median of 20 calls."""
    latents.encode(run, images)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        latents.encode(run, images)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Trains, measures and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each run")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each kind")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in MODES:
            for depth in DEPTHS:
                found = []
                for seed in range(options.seeds):
                    config = scvae_digits.get_config(mode)
                    config.seed = seed
                    config.model.bottleneck.iterations = depth
                    config.train.steps = options.steps
                    config.evaluation.every = 0
                    path = str(Path(folder) / f"{mode}-{depth}-{seed}")
                    train_and_evaluate(config, path)
                    values = json.loads((Path(path) / "evaluation.json").read_text())["values"]
                    run = runs.load(path)
                    images = latents.images(run, limit=128)
                    found.append(
                        (
                            values["nmse"],
                            values["non_zeros"],
                            excess(run, images),
                            encoding_time(run, images),
                        )
                    )
                rows.append((mode, depth, *np.mean(found, axis=0)))
    print(f"\nscvae_digits, {options.steps} steps, {options.seeds} seeds")
    print(f"{'mode':>9} {'T':>3} {'NMSE':>8} {'not 0':>6} {'excess':>8} {'ms':>6}")
    for mode, depth, nmse, entries, over, milliseconds in rows:
        print(
            f"{mode:>9} {depth:>3} {nmse:>8.4f} {entries:>6.1f} {over:>8.1e} {milliseconds:>6.1f}"
        )

    D = dct_dictionary(4)
    e = jax.random.normal(jax.random.key(0), (1000, 16))
    codes = [lista(e, D, start_lista(D, penalty=0.1, layers=depth)).code for depth in DEPTHS]
    moved = max(float(jnp.max(jnp.abs(code - codes[0]))) for code in codes)
    print(f"orthonormal dictionary, nothing learned: codes of all T differ by {moved:.1e} at most")


if __name__ == "__main__":
    main()
