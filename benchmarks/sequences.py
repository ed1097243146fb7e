"""How fast the MNIST Topographic VAE trains, beside PyTorch, and what rendering costs.

    python benchmarks/sequences.py [--steps N] [--rounds R]

Two programs train the same model (`topographic_vae_mnist`, 8 sequences of 18 frames, SGD):

  ours      `train_and_evaluate` as `python -m train` runs it, which renders its sequences
  pytorch   on as many threads, with sequences rendered and in memory beforehand

They take turns, as in `training.py`, whose table this prints. Then rendering alone, in one process
that does nothing else: milliseconds a batch, to be held against those of a step. Digits are MNIST
where TFDS has it prepared, else scikit-learn's.

    python benchmarks/sequences.py --curve 100

instead prints the loss of PyTorch's model, the mean of every 20 steps, on the very batches that a
run with seed 0 sees; it starts from another draw of the same distributions.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from training import HERE, WARM_UP, machine, table
from turns import Contender

sys.path.insert(0, str(HERE.parent))

from configs import topographic_vae_mnist

RENDERED = 64  # batches kept in memory for PyTorch: 65 MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--curve", type=int, default=0, help="only PyTorch's loss, of these steps")
    options = parser.parse_args()
    if options.curve:
        print_curve(options.curve)
        return
    unit = topographic_vae_mnist.get_config().train.steps_per_call
    if options.rounds < 1 or options.steps < 1 or options.steps % unit:
        parser.error(f"--rounds is 1 or more, --steps a multiple of {unit}, as many as a call does")

    print(machine())
    name, batches = load_sequences()
    start = time.perf_counter()
    images = np.concatenate([batches[step]["image"] for step in range(RENDERED)])
    milliseconds = (time.perf_counter() - start) / RENDERED * 1000
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "sequences.npy")
        np.save(path, images)
        programs = {
            "ours": ("training_ours.py", "topographic_vae_mnist", name),
            "pytorch": ("sequences_torch.py", path),
        }
        contenders = []
        try:
            for each, (program, *given) in programs.items():
                contenders.append(Contender(each, [sys.executable, str(HERE / program), *given]))
            for contender in contenders:
                contender.run(WARM_UP)
            rounds = []
            for number in range(options.rounds):
                rounds.append([contender.run(options.steps) for contender in contenders])
                rates = ", ".join(f"{options.steps / t['seconds']:.2f}" for t in rounds[-1])
                print(f"round {number + 1}, steps/s: {rates}", flush=True)
        finally:
            for contender in contenders:
                contender.close()
    print(f"\n{table(contenders, rounds, options.steps)}\n")
    step = np.median([ours["seconds"] for ours, _ in rounds]) / options.steps * 1000
    frames = images.shape[0] * images.shape[1] / RENDERED
    print(
        f"rendering alone: {milliseconds:.1f} ms a batch of {frames:.0f} frames "
        f"({frames / milliseconds * 1000:,.0f} frames/s), {milliseconds / step:.1%} of our step; "
        f"training: {frames / step * 1000:,.0f} frames/s"
    )


def print_curve(steps: int) -> None:
    """Trains PyTorch's model alone."""
    import torch
    from sequences_torch import TopographicVAE

    torch.manual_seed(0)
    _, batches = load_sequences()
    model = TopographicVAE(int(np.prod(batches[0]["image"].shape[2:])))
    sgd = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    losses = []
    for step in range(steps):
        loss, _ = model(torch.from_numpy(batches[step]["image"]).float() / 255)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(float(loss))
        if len(losses) % 20 == 0:
            print(f"step {len(losses)}: {np.mean(losses[-20:]):.1f} nats a frame", flush=True)


def load_sequences():
    """The name of the source, and its batches as a run gets them."""
    from train.data import Batches, load_source, make_transform
    from train.errors import UserError

    config = topographic_vae_mnist.get_config()
    data = config.data
    try:
        source = load_source(data, "train")
    except UserError as error:
        print(f"scikit-learn's digits, for there is no MNIST here ({error})")
        data.source, data.train = "sequences:digits", "train"
        source = load_source(data, "train")
    print(f"sequences of {len(source):,} digits, {data.source}")
    transform = make_transform(data, "train")
    return data.source, Batches(
        source, batch_size=config.train.batch_size, seed=0, transform=transform
    )


if __name__ == "__main__":
    main()
