"""The source `codes:W`: what the trained run in W encodes its data set to."""

import logging
import zipfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from train import parallel, runs
from train.checkpoints import Checkpoints
from train.data.random_access import InMemory, Source
from train.errors import UserError

log = logging.getLogger("train")
SPLITS = ("train", "test")


class Checkpoint(NamedTuple):
    """One of a run's checkpoints: its step, and the CRC-32 of its values that is saved with it."""

    step: int
    checksum: int


def newest_checkpoint(workdir: str) -> Checkpoint:
    """The newest checkpoint of the run in `workdir`.

    Raises:
        UserError: there is no run, or no checkpoint of it.
    """
    runs.read_config(workdir)
    with Checkpoints(runs.folder(workdir) / "checkpoints", keep=1, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"{workdir} has no checkpoint yet; train it first")
        return Checkpoint(steps[-1], int(checkpoints.meta(steps[-1])["checksum"]))


def encoder_of(data: Mapping[str, str]) -> str:
    """W of the source `codes:W`, "" of any other."""
    kind, _, place = data["source"].partition(":")
    return place if kind == "codes" else ""


def pin_encoder(data: ConfigDict) -> None:
    """Notes in `data.encoder_checksum` which checkpoint the codes are of, where nothing is noted.

    Raises:
        UserError: as `newest_checkpoint`.
    """
    if encoder_of(data) and not data.encoder_checksum:
        data.encoder_checksum = newest_checkpoint(encoder_of(data)).checksum


def check_encoder(workdir: str, checksum: int) -> Checkpoint:
    """The newest checkpoint in `workdir`, which must be the one that a prior's codes are of.

    Args:
        workdir: of the run that encodes.
        checksum: the prior's `data.encoder_checksum`; 0 if there is none yet.

    Raises:
        UserError: the run has been trained further since; or as `newest_checkpoint`.
    """
    found = newest_checkpoint(workdir)
    if checksum not in (0, found.checksum):
        raise UserError(
            f"the prior is of codes of another checkpoint of {workdir} than its newest, that of "
            f"step {found.step}; train the prior anew in another --workdir"
        )
    return found


def load(workdir: str, *, checksum: int = 0) -> dict[str, Source]:
    """The codes of "train" and "test", int32 `[*grid, codebooks]`, and their labels, in memory.

    Encodes first where nothing is written yet.

    Args:
        workdir: of the run that encodes.
        checksum: as in `check_encoder`.

    Raises:
        UserError: as `check_encoder`; or what is written is damaged, or of another checkpoint.
    """
    from train import encode  # which asks for sources itself

    checkpoint = check_encoder(workdir, checksum)
    if parallel.is_first_process() and not all(_path(workdir, s).exists() for s in SPLITS):
        log.info("encoding the data of %s", workdir)
        encode.write_codes(workdir)
    parallel.wait_for_all("codes are written")
    return {split: _read_split(workdir, split, checkpoint) for split in SPLITS}


def write_split(
    workdir: str, split: str, arrays: Mapping[str, np.ndarray], checkpoint: Checkpoint
) -> None:
    """Writes `W/codes/SPLIT.npz`, whole or not at all; raises UserError where it cannot be."""
    path = _path(workdir, split)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, **arrays, checkpoint=np.array(checkpoint, np.int64))
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _read_split(workdir: str, split: str, checkpoint: Checkpoint) -> InMemory:
    path = _path(workdir, split)
    again = f"make it anew: python -m train.encode --workdir {workdir}"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        found = Checkpoint(*map(int, arrays.pop("checkpoint")))
        arrays["code"] = arrays["code"].astype(np.int32)
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    if found != checkpoint:
        raise UserError(
            f"{path} is of another checkpoint (step {found.step}) than the newest of {workdir} "
            f"(step {checkpoint.step}); {again}"
        )
    return InMemory(arrays)


def _path(workdir: str, split: str) -> epath.Path:
    return runs.folder(workdir) / "codes" / f"{split}.npz"
