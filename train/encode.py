"""The codes of a trained run's data: `python -m train.encode --workdir W`.

They are written beside the run, `W/codes/train.npz` and `W/codes/test.npz`: what a prior is trained
on (`data.source=codes:W`), which does this itself where it has not been done.
"""

import numpy as np
from absl import flags

from train import cli, latents, parallel, runs
from train.data.codes import SPLITS, newest_checkpoint, write_split
from train.data.pipeline import evaluation_batches
from train.data.sources import load_source
from train.data.transforms import make_transform
from train.errors import UserError


def encode_split(run: runs.Run, split: str) -> dict[str, np.ndarray]:
    """The codes of a split in order, each image once, and all that its examples hold besides.

    "code" is of the smallest unsigned type that holds it, `[n, *grid, codebooks]`. Where the data
    are cropped or mirrored at random, each training image is so once, by its index.

    Raises:
      UserError: the run's codes are no whole numbers, or its data are not there.
    """
    source = load_source(run.config.data, split)
    transform = make_transform(run.config.data, split)
    found: dict[str, list[np.ndarray]] = {}
    for batch in evaluation_batches(source, batch_size=latents.BATCH, transform=transform):
        real = np.asarray(batch.pop("mask")) > 0
        code = latents.encode(run, batch.pop(run.model.key))
        if not np.issubdtype(code.dtype, np.integer):
            raise UserError(
                f"{run.config.name} has codes of {code.dtype}; a prior takes whole numbers, those "
                "of a codebook"
            )
        kept = {**batch, "code": code.astype(np.min_scalar_type(run.model.bottleneck.codes - 1))}
        for name, value in kept.items():
            found.setdefault(name, []).append(np.asarray(value)[real])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def write_codes(workdir: str) -> dict[str, dict[str, np.ndarray]]:
    """Encodes both splits of the data of the run in `workdir` and writes them beside it.

    Raises:
      UserError: as `encode_split`; or there is no run, or its folder cannot be written.
    """
    config = runs.read_config(workdir)
    if config.model.prior or config.model.second_stage:
        what = "a prior" if config.model.prior else "a second stage"
        raise UserError(f"{workdir} holds {what}, which encodes no data; name the run of its codes")
    run = runs.load(workdir)
    checkpoint = newest_checkpoint(workdir)
    splits = {split: encode_split(run, split) for split in SPLITS}
    for split, arrays in splits.items():
        write_split(workdir, split, arrays, checkpoint)
    return splits


def main(_: list[str]) -> None:
    """Writes the codes, those written before included."""
    if not parallel.is_first_process():
        return
    workdir = flags.FLAGS.workdir
    for split, arrays in write_codes(workdir).items():
        grid = " x ".join(map(str, arrays["code"].shape[1:]))
        path = runs.folder(workdir) / "codes" / f"{split}.npz"
        print(f"{split}: {len(arrays['code'])} examples of {grid} codes in {path}")


if __name__ == "__main__":
    cli.define_workdir("folder of a trained run with discrete codes")
    cli.run(main)
