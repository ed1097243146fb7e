"""Recordings of speech: WAV or FLAC files, in a folder or listed in a CSV file; and their crops."""

import csv
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from train.data import tfds_source
from train.data.random_access import Example, Source, Subset
from train.errors import UserError

_CACHE = 2**30  # bytes of decoded recordings that a source keeps
_ENDINGS = (".wav", ".flac")
# The files of the Free Spoken Digit Dataset, digit_speaker_take.wav; its takes 0 to 4 are its test.
_FSDD = re.compile(r"(\d)_([a-z]+)_(\d+)")
_FSDD_TEST = 5


class Listing(NamedTuple):
    """What recordings there are.

    Attributes:
      paths: of the files.
      speaker: int `[n]`, the place of each in `speakers`.
      label: int `[n]`, the place of each in `labels`; None if nothing is said of them.
      split: "train" or "test" for each; None if nothing is said of them.
      speakers: names in sorted order.
      labels: names in sorted order.
    """

    paths: list[Path]
    speaker: np.ndarray
    label: np.ndarray | None
    split: list[str] | None
    speakers: list[str]
    labels: list[str]


def listing(place: str) -> Listing:
    """The recordings of `audio:PATH`.

    PATH is a CSV file, or a folder: with a `manifest.csv`, that is read; else all WAV and FLAC
    files under it. The CSV file has a line of column names: `path`, from where it lies; and where
    known `speaker`, `split` ("train" or "test") and `label` (or `digit`). Without it, names of the
    form digit_speaker_take (FSDD's) say all three, takes 0 to 4 being "test"; else the first
    sub-folder is the speaker, as in VCTK and LibriSpeech, and there are no labels.

    Raises:
      UserError: no such folder or file, no recording in it, or a line that cannot be.
    """
    path = Path(place).expanduser()
    manifest = path if path.suffix == ".csv" else path / "manifest.csv"
    if manifest.is_file():
        return _manifest(manifest)
    if not path.is_dir():
        raise UserError(f"audio:{place}: no such folder, and no such CSV file")
    paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in _ENDINGS and p.name[0] != ".")
    if not paths:
        raise UserError(f"audio:{place}: no file in it that ends in {' or '.join(_ENDINGS)}")
    if (found := _fsdd(paths)) is not None:
        return found
    parts = [p.relative_to(path).parts for p in paths]
    folders = all(len(part) > 1 for part in parts)
    return _listed(paths, [part[0] if folders else "" for part in parts], None, None)


def _fsdd(paths: list[Path]) -> Listing | None:
    """What FSDD's file names say; None where they are others."""
    digits = [_FSDD.fullmatch(p.stem) for p in paths]
    if not all(digits):
        return None
    split = ["test" if int(found[3]) < _FSDD_TEST else "train" for found in digits]
    return _listed(paths, [d[2] for d in digits], [d[1] for d in digits], split)


def _manifest(manifest: Path) -> Listing:
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    if "path" not in columns:
        raise UserError(f"{manifest}: its columns are {columns}; expected 'path' among them")
    if bad := [r for r in rows if "split" in columns and r["split"] not in ("train", "test")]:
        raise UserError(f"{manifest}: split {bad[0]['split']!r}; expected 'train' or 'test'")
    name = next((n for n in ("label", "digit") if n in columns), None)
    return _listed(
        [manifest.parent / row["path"] for row in rows],
        [row.get("speaker", "") for row in rows],
        [row[name] for row in rows] if name else None,
        [row["split"] for row in rows] if "split" in columns else None,
    )


def _listed(
    paths: list[Path], speaker: list[str], label: list[str] | None, split: list[str] | None
) -> Listing:
    speakers, labels = sorted(set(speaker)), sorted(set(label or ()))
    places = np.array([speakers.index(name) for name in speaker], np.int32)
    of_labels = None if label is None else np.array([labels.index(x) for x in label], np.int32)
    return Listing(paths, places, of_labels, split, speakers, labels)


def load(place: str, rate: int, *, data_dir: str = "") -> dict[str, Source]:
    """The recordings of `audio:PATH` at a sample rate, whole, by split where `listing` knows it.

    `audio:tfds:spoken_digit` is the Free Spoken Digit Dataset as TFDS prepared it.

    Raises:
      UserError: as `listing`; soundfile is not installed, or nothing is prepared. While reading: a
        file that cannot be decoded, or is empty, by name.
    """
    if place.startswith("tfds:"):
        found, open_row = _prepared(place, rate, data_dir)
    else:
        found, open_row = _files(place, rate)
    if found.split is None:
        return {"train": Recordings(found, np.arange(len(found.paths)), open_row)}
    split = np.array(found.split)
    return {
        name: Recordings(found, np.flatnonzero(split == name), open_row)
        for name in ("train", "test")
    }


def _files(place: str, rate: int) -> tuple[Listing, Callable[[int], np.ndarray]]:
    """What recordings there are, and what reads one of them."""
    _soundfile()
    found = listing(place)
    return found, lambda row: read(found.paths[row], rate)


def _prepared(place: str, rate: int, data_dir: str) -> tuple[Listing, Callable[[int], np.ndarray]]:
    """The same of a set of TFDS."""
    waveforms, names, found_rate = tfds_source.waveforms(place[5:], data_dir=data_dir)
    found = _fsdd([Path(name) for name in names])
    if found is None:
        raise UserError(f"audio:{place}: its files are no digit_speaker_take, as spoken_digit's")
    return found, lambda row: resampled(waveforms[row] / 32768, found_rate, rate)


class Recordings:
    """Whole recordings, decoded at access; the first GiB of them is kept.

    An example is "audio", int16 `[samples]`, "speaker", and "label" where there are any, int32.
    """

    def __init__(
        self, found: Listing, rows: np.ndarray, open_row: Callable[[int], np.ndarray]
    ) -> None:
        self.found = found
        self.rows = rows
        self.open_row = open_row
        self.kept: dict[int, np.ndarray] = {}
        self.kept_bytes = 0

    def __len__(self) -> int:
        """The number of recordings."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """One recording."""
        row = int(self.rows[index])
        audio = self.kept.get(row)
        if audio is None:
            audio = self.open_row(row)
            if self.kept_bytes + audio.nbytes <= _CACHE:
                self.kept[row] = audio
                self.kept_bytes += audio.nbytes
        example = {"audio": audio, "speaker": self.found.speaker[row]}
        return example if self.found.label is None else example | {"label": self.found.label[row]}


def check_speakers(source: Source, classes: int) -> None:
    """Refuses recordings of more speakers than a model has.

    Raises:
      UserError: names both numbers.
    """
    while isinstance(source, Subset):
        source = source.source
    number = len(source.found.speakers)
    if number > classes:
        raise UserError(
            f"the recordings have {number} speakers, model.speech.classes is {classes}; set "
            f"model.speech.classes={number}"
        )


def read(path: Path, rate: int) -> np.ndarray:
    """A recording as int16 `[samples]` at `rate` a second, its channels averaged.

    Resampled, where it has another rate, by a polyphase filter (`scipy.signal.resample_poly`).

    Raises:
      UserError: naming the file, where it cannot be decoded, or nothing is in it.
    """
    soundfile = _soundfile()
    try:
        audio, found = soundfile.read(path, dtype="float64", always_2d=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable recording ({reason})") from error
    if not len(audio):
        raise UserError(f"{path}: nothing is recorded in it; remove it")
    return resampled(audio.mean(axis=1), found, rate)


def resampled(amplitude: np.ndarray, found: int, rate: int) -> np.ndarray:
    """Amplitudes in [-1, 1] of one sample rate as int16 of another, both in samples a second."""
    if found != rate:
        from scipy.signal import resample_poly

        common = math.gcd(found, rate)
        amplitude = resample_poly(amplitude, rate // common, found // common)
    return np.clip(np.rint(amplitude * 32768), -32768, 32767).astype(np.int16)


def write(path: Path, amplitude: np.ndarray, rate: int) -> None:
    """Writes amplitudes `[samples]` in [-1, 1] as 16-bit PCM, the format by the file's ending."""
    _soundfile().write(path, np.clip(amplitude, -1, 1), rate, subtype="PCM_16")


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise UserError(
            "recordings are read by soundfile, which is not installed: "
            "pip install 'bottlenecks[audio]'"
        ) from error
    return soundfile


def make_transform(
    data: Mapping[str, Any], split: str
) -> Callable[[Example, np.random.Generator], Example]:
    """Crops of `data.samples`: at random places in "train", from the middle in "test".

    A shorter recording is laid between zeros, likewise.
    """
    samples = data["samples"]

    def transform(example: Example, random: np.random.Generator) -> Example:
        audio = example["audio"]
        spare = abs(len(audio) - samples)
        start = int(random.integers(0, spare + 1)) if split == "train" else spare // 2
        if len(audio) >= samples:
            audio = audio[start : start + samples]
        else:
            audio = np.pad(audio, (start, spare - start))
        return {**example, "audio": audio}

    return transform
