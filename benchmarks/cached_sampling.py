"""Draws from a gated PixelCNN, cached against the whole grid passed for every position.

    python benchmarks/cached_sampling.py
    python benchmarks/cached_sampling.py --model wavenet

The whole grid is passed for the first few positions only, and the time scaled to all: every
position takes the same. It passes both stacks; the layers after them, at the position drawn alone.
With `--model wavenet` it is a WaveNet, such as decodes speech, against the whole sequence.

Printed are medians, how many times as fast the caches are round by round, and how many of the codes
at these positions agree.
"""

import argparse
import os
import statistics
import sys
from functools import partial

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import jax
import jax.numpy as jnp
import numpy as np
from medians import compare

from models.priors import GatedPixelCNN, WaveNet, sample, sample_sequences
from models.priors.pixelcnn_sampling import draw


def whole_grids(model, shape, positions):
    """A program that draws the first positions, each from the logits of the whole grid."""
    width = shape[2]

    def position(i, carry):
        variables, key, code = carry
        apply = partial(model.apply, variables)
        h = apply(apply(code[..., None], method="embed"), method="stacks")
        u = apply(h[:, i // width, i % width], method="output_layer")
        key_here = jax.random.fold_in(jax.random.fold_in(key, i), 0)
        drawn = draw(key_here, apply(u, 0, method="codebook_logits"))
        return variables, key, code.at[:, i // width, i % width].set(drawn)

    @jax.jit
    def run(variables, key):
        start = variables, key, jnp.zeros(shape, jnp.int32)
        return jax.lax.fori_loop(0, positions, position, start)[2]

    return run


def whole_sequences(model, shape, positions):
    """A program that draws the first positions, each from the logits of the whole sequence."""

    def position(i, carry):
        variables, key, code = carry
        logits = model.apply(variables, code)[:, i]
        return variables, key, code.at[:, i].set(draw(jax.random.fold_in(key, i), logits))

    @jax.jit
    def run(variables, key):
        start = variables, key, jnp.zeros(shape, jnp.int32)
        return jax.lax.fori_loop(0, positions, position, start)[2]

    return run


def main() -> None:
    """Times each batch size and prints a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["pixelcnn", "wavenet"], default="pixelcnn")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--size", type=int, default=32, help="height and width of the grid")
    parser.add_argument("--samples", type=int, default=4096, help="of a WaveNet's sequence")
    parser.add_argument("--codes", type=int, default=512, help="of a PixelCNN; 256 of a WaveNet")
    parser.add_argument("--layers", type=int, default=20, help="of a WaveNet: in two cycles")
    parser.add_argument("--features", type=int, default=128, help="a quarter of it for a WaveNet")
    parser.add_argument("--kernel", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--positions", type=int, default=4, help="passed with the whole grid")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    wavenet = options.model == "wavenet"
    positions, total = options.positions, options.samples if wavenet else options.size**2
    if not 1 <= positions <= total or options.rounds < 1:
        parser.error(f"positions are 1 to {total}, rounds 1 or more; got {sys.argv[1:]}")

    if wavenet:
        model = WaveNet(
            codes=256,
            layers=options.layers // 2,
            cycles=2,
            features=options.features // 4,
            dtype=jnp.dtype(options.dtype),
        )
    else:
        model = GatedPixelCNN(
            codes=options.codes,
            layers=options.layers,
            features=options.features,
            kernel=options.kernel,
            dtype=jnp.dtype(options.dtype),
        )
    grid = (options.samples,) if wavenet else (options.size, options.size)
    draw_cached, passed = (sample_sequences, whole_sequences) if wavenet else (sample, whole_grids)
    key = jax.random.key(1)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *grid), jnp.int32))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {options.dtype}")
    kernel = "" if wavenet else f", kernel {options.kernel}"
    print(
        f"{options.model}, {' x '.join(map(str, grid))}, K={model.codes}, {options.layers} layers "
        f"of {model.features}{kernel}; medians of {options.rounds} rounds"
    )
    print(f"whole: {positions} of {total} positions timed, seconds scaled to all")
    print(f"{'batch':>6} {'cached s':>10} {'whole s':>10} {'times as fast':>24} {'same codes':>12}")
    for batch in options.batches:
        shape = (batch, *grid)
        whole = passed(model, shape, positions)
        drawn = {}

        def cached_run(shape=shape, drawn=drawn):
            drawn["cached"] = draw_cached(model, variables, key, shape).block_until_ready()

        def whole_run(whole=whole, drawn=drawn):
            drawn["whole"] = whole(variables, key).block_until_ready()

        seconds = compare({"cached": cached_run, "whole": whole_run}, rounds=options.rounds)
        scaled = [time * total / positions for time in seconds["whole"]]
        ratios = [other / own for other, own in zip(scaled, seconds["cached"], strict=True)]
        first = {name: np.reshape(code, (batch, -1))[:, :positions] for name, code in drawn.items()}
        same = np.sum(first["cached"] == first["whole"])
        ratio = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(
            f"{batch:>6} {statistics.median(seconds['cached']):>10.3f} "
            f"{statistics.median(scaled):>10.1f} {ratio:>24} {same:>5} of {batch * positions}"
        )


if __name__ == "__main__":
    main()
