"""How fast a vector-quantisation training step is, beside two other libraries; then a big search.

    python benchmarks/bench_vq.py [--rounds R]

One step is the forward pass, the gradient to the features and the moving-average update of the
codebook, float32, one process, all its threads. All three train on the same features with the same
loss, mean(w * latent) + 0.25 * mean((sg[latent] - features)^2), take turns, and start from the same
codebook. The peers come with `pip install 'bottlenecks[bench]'`; one that is missing is left out.

  bottlenecks                quantize and update_codebook, jitted
  dm-haiku                   hk.nets.VectorQuantizerEMA, jitted
  vector-quantize-pytorch    VectorQuantize(rotation_trick=False, decay=0.99,
                             commitment_weight=0.25), training mode, no dead-code expiry

The search finds the nearest of 65536 codewords for 131072 vectors of 64 numbers, whose distances
together would fill 34 GB, in a process of its own: its time, and its peak memory beyond its inputs.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).parent
# The project first: `benchmarks/bottlenecks.py` has the name of the package.
sys.path[:0] = [str(HERE.parent), str(HERE)]

from medians import compare, report  # noqa: E402

from bottlenecks import nearest_codeword, quantize, start_codebook, update_codebook  # noqa: E402

SHAPES = ((16384, 64, 512), (16384, 256, 1024), (16384, 64, 8192))  # (N, D, K)
SEARCH = (131072, 64, 65536)
DECAY, BETA = 0.99, 0.25
EXTRA = "pip install 'bottlenecks[bench]'"


def main(rounds: int = 10) -> None:
    """Prints medians in milliseconds and the ratios of each round, then the search."""
    for N, D, K in SHAPES:
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=s).astype(np.float32) for s in ((N, D), (K, D), (N, D))]
        programs = {"bottlenecks": ours(*arrays)}
        for name, peer in (("dm-haiku", haiku), ("vector-quantize-pytorch", lucidrains)):
            try:
                programs[name] = peer(*arrays)
            except ImportError as error:
                print(f"{name}: left out, {error.name} is not installed ({EXTRA})")
        title = f"VQ training step, N={N} D={D} K={K}"
        report(title, compare(programs, rounds=rounds), ours="bottlenecks")
    search()


def ours(features: np.ndarray, codebook: np.ndarray, w: np.ndarray) -> Callable[[], object]:
    def loss(x: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = quantize(x, e)
        commitment = jnp.mean(found.commitment_loss) / x.shape[-1]
        return jnp.mean(w * found.latent) + BETA * commitment, found.index

    @jax.jit
    def step(state: tuple, x: jax.Array) -> tuple:
        (value, index), gradient = jax.value_and_grad(loss, has_aux=True)(x, state.codebook)
        return update_codebook(state, x, index, decay=DECAY), value, gradient

    return turns(step, start_codebook(jnp.asarray(codebook)), jnp.asarray(features))


def haiku(features: np.ndarray, codebook: np.ndarray, w: np.ndarray) -> Callable[[], object]:
    import haiku as hk

    K, D = codebook.shape
    module = hk.without_apply_rng(
        hk.transform_with_state(
            lambda x: hk.nets.VectorQuantizerEMA(D, K, BETA, DECAY)(x, is_training=True)
        )
    )

    def loss(x: jax.Array, state: dict) -> tuple[jax.Array, dict]:
        found, state = module.apply({}, state, x)
        return jnp.mean(w * found["quantize"]) + found["loss"], state

    @jax.jit
    def step(state: dict, x: jax.Array) -> tuple:
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(x, state)
        return state, value, gradient

    x = jnp.asarray(features)
    _, state = module.init(jax.random.key(0), x)
    state["vector_quantizer_ema"]["embeddings"] = jnp.asarray(codebook.T)
    return turns(step, state, x)


def turns(step: Callable, state: object, x: jax.Array) -> Callable[[], object]:
    """A program whose every run is one more step of training."""
    now = [state]

    def run() -> None:
        now[0] = jax.block_until_ready(step(now[0], x))[0]

    return run


def lucidrains(features: np.ndarray, codebook: np.ndarray, w: np.ndarray) -> Callable[[], object]:
    import torch
    from vector_quantize_pytorch import VectorQuantize

    K, D = codebook.shape
    module = VectorQuantize(D, K, decay=DECAY, commitment_weight=BETA, rotation_trick=False)
    module.train()
    module._codebook.embed.data.copy_(torch.from_numpy(codebook)[None])
    module._codebook.embed_avg.data.copy_(torch.from_numpy(codebook)[None])
    x = torch.from_numpy(features)[None].requires_grad_()
    weight = torch.from_numpy(w)[None]

    def run() -> None:
        x.grad = None
        latent, _, commitment = module(x)
        ((weight * latent).mean() + commitment.sum()).backward()

    return run


def search() -> None:
    N, D, K = SEARCH
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((N, D), (K, D))]
    plan = jax.jit(nearest_codeword).lower(*shapes).compile().memory_analysis()
    command = [sys.executable, __file__, "--search"]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(child.stdout.splitlines()[-1])
    print(f"\nNearest codeword, N={N} D={D} K={K}")
    print(f"  time                    {found['seconds']:9.1f} s")
    print(f"  planned beyond inputs   {plan.temp_size_in_bytes / 1e6:9.1f} MB (XLA's temporaries)")
    print(f"  peak beyond inputs      {found['peak_bytes'] / 1e6:9.1f} MB (of the process)")


def search_alone() -> None:
    """In a process of its own: prints the seconds, and by how much memory rose at its peak.

    The peak is that of the whole process, compilation included: an upper bound.
    """
    N, D, K = SEARCH
    rng = np.random.default_rng(0)
    x, e = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((N, D), (K, D)))
    run = jax.jit(nearest_codeword).lower(x, e).compile()
    before = bytes_now()
    start = time.perf_counter()
    jax.block_until_ready(run(x, e))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": bytes_at_peak() - before}))


def bytes_now() -> int:
    """Memory this process holds now, as Linux tells it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def bytes_at_peak() -> int:
    """The most this program has held; `ru_maxrss` would begin with what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each program")
    parser.add_argument("--search", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    search_alone() if options.search else main(options.rounds)
