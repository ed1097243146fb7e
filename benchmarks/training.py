"""How fast `vqvae_cifar10` trains, beside a plain JAX loop and PyTorch.

    python benchmarks/training.py [--steps N] [--rounds R]

Three programs train the same VQ-VAE (batch 32, Adam, EMA codebook of 512) on the same images:

  ours      `train_and_evaluate` as `python -m train` runs it: data, log and all
  plain     one jitted step with donation, written by hand; all batches on the device beforehand
  pytorch   the same in PyTorch, on as many threads; left out where torch is not installed

They take turns of N steps, R rounds, each in a process of its own while the others sleep. Told are
medians over the rounds, the ratios within a round, the time the loop waits for data, the time of
the first step (compilation), and the peak memory of the process, the images (123 MB) included.
Then the data path alone: batches a second up to the device. Images are CIFAR-10 where TFDS has it
prepared, else noise of that shape. `pip install 'bottlenecks[bench]'` brings PyTorch. About two
minutes on two quiet cores; a busy machine slows all down, and disturbs the ratios less.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from turns import Contender

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
WARM_UP = 5  # steps before the first round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=_positive, default=60, help="steps of a turn")
    parser.add_argument("--rounds", type=_positive, default=5, help="turns of each")
    options = parser.parse_args()

    print(machine())
    name, source = load_images()
    names = ["ours", "plain"]
    if importlib.util.find_spec("torch"):
        names.append("pytorch")
    else:
        print("pytorch: left out, for torch is not installed (pip install 'bottlenecks[bench]')")

    with tempfile.TemporaryDirectory() as folder:
        images = f"{folder}/images.npy"
        np.save(images, source.arrays["image"])
        contenders = []
        try:
            for each in names:
                program = HERE / f"training_{each.removeprefix('py')}.py"
                given = ("vqvae_cifar10", name) if each == "ours" else (images,)
                contenders.append(Contender(each, [sys.executable, str(program), *given]))
            for contender in contenders:
                contender.run(WARM_UP)
            rounds = []
            for number in range(options.rounds):
                rounds.append([contender.run(options.steps) for contender in contenders])
                rates = ", ".join(
                    f"{each} {options.steps / turn['seconds']:.2f}"
                    for each, turn in zip(names, rounds[-1], strict=True)
                )
                print(f"round {number + 1}, steps/s: {rates}", flush=True)
        finally:
            for contender in contenders:
                contender.close()
    print(f"\n{table(contenders, rounds, options.steps)}\n")
    print(data_path(source))


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return int(text)


def machine() -> str:
    """What all this runs on."""
    versions = ", ".join(
        f"{each} {importlib.metadata.version(each)}"
        for each in ("jax", "flax", "optax", "torch")
        if importlib.util.find_spec(each)
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {versions}"
    )


def load_images():
    """CIFAR-10 where it is prepared, else noise: its name for the config, and the source."""
    from configs import vqvae_cifar10
    from train.data.sources import load_source
    from train.errors import UserError

    data = vqvae_cifar10.get_config().data
    try:
        source = load_source(data, "train")
        print(f"images: CIFAR-10, {len(source)} of them")
        return data.source, source
    except UserError as error:
        data.source, data.train = "synthetic", "train"
        source = load_source(data, "train")
        print(f"images: {len(source)} of noise, for there is no CIFAR-10 here ({error})")
        return data.source, source


def table(contenders: list[Contender], rounds: list[list[dict]], steps: int) -> str:
    """One line for each contender."""
    lines = [
        f"{'':8} {'steps/s':>8} {'ms/step':>8} {'ours is':>9} {'(rounds)':>15} {'waiting':>8} "
        f"{'first step':>11} {'peak':>8} {'error':>7}  device"
    ]
    seconds = np.array([[turn["seconds"] for turn in turns] for turns in rounds])
    for i, contender in enumerate(contenders):
        ratios = seconds[:, i] / seconds[:, 0]
        median = statistics.median(seconds[:, i]) / steps
        spread = f"({min(ratios):.1%}-{max(ratios):.1%})"
        ours = [f"{statistics.median(ratios):.1%}", spread] if i else ["", ""]
        waits = [t[i].get("waited", 0) / t[i]["seconds"] for t in rounds]
        waiting = f"{statistics.median(waits):.1%}" if i == 0 else "-"
        last = rounds[-1][i]
        lines.append(
            f"{contender.name:8} {1 / median:8.2f} {1000 * median:8.1f} {ours[0]:>9} {ours[1]:>15} "
            f"{waiting:>8} {contender.first['first_step']:9.1f} s "
            f"{last['peak_bytes'] / 1e6:5.0f} MB {last['error']:7.3f}  {contender.first['device']}"
        )
    lines.append(
        "ours is: our speed as a share of that program's. waiting: share of our time spent waiting "
        "for\ndata. error: squared error over the data's variance, mean of the last round's steps."
    )
    return "\n".join(lines)


def data_path(source, *, seconds: float = 3.0) -> str:
    """Batches a second, read and put on the device with no training beside it."""
    import jax

    from configs import vqvae_cifar10
    from train import parallel
    from train.data.pipeline import Batches, prefetch

    batch_size = vqvae_cifar10.get_config().train.batch_size
    batches = Batches(source, batch_size=batch_size, seed=0)
    start, count = time.perf_counter(), 0
    for _, batch in prefetch(batches, start=0, stop=10**6):
        placed = parallel.shard(batch)
        count += 1
        if time.perf_counter() - start > seconds:
            break
    jax.block_until_ready(placed)
    rate = count / (time.perf_counter() - start)
    return f"data path alone: {rate:,.0f} batches/s of {batch_size}, read ahead and on the device"


if __name__ == "__main__":
    main()
