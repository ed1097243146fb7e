"""Where a run's figures go: `metrics.jsonl`, TensorBoard where it is installed."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import math
import platform
from typing import Any

from etils import epath

from train import parallel
from train.errors import UserError


class Writer:
    """Appends lines `{"step", "split", name: value}` to `metrics.jsonl` in the run's folder.

    Holds nothing that depends on the clock, so that a resumed run's file equals a straight one's.
    """

    def __init__(self, workdir: epath.Path, *, resume_step: int) -> None:
        """Opens the file and drops what was logged after `resume_step`."""
        self.path = workdir / "metrics.jsonl"
        self._lines = [line for line in read_lines(self.path) if line["step"] <= resume_step]
        self._rewrite()
        self._file = self.path.open("a") if _is_local(self.path) else None

    @functools.cached_property
    def _events(self) -> Any:
        # Opened by the first line, so that a finished run that is shown again gets no new file.
        return _event_writer(self.path.parent)

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes one line.

        Raises:
          UserError: the disk is full, say.
        """
        line = {"step": step, "split": split, **{k: float(v) for k, v in sorted(values.items())}}
        self._lines.append(line)
        if self._file is None:
            self._rewrite()  # buckets cannot append
        else:
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                raise UserError(f"{self.path} cannot be written: {error.strerror}") from error
        if self._events is not None:
            finite = {f"{split}/{k}": v for k, v in values.items() if math.isfinite(v)}
            self._events.write_scalars(step, finite)

    def has(self, step: int, split: str) -> bool:
        """Whether a line for this step and split is there."""
        return any(line["step"] == step and line["split"] == split for line in self._lines)

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None:
            # Every line was flushed when it was written; what is left could not be, and was told.
            with contextlib.suppress(OSError):
                self._file.close()
        if vars(self).get("_events") is not None:
            self._events.close()

    def _rewrite(self) -> None:
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in self._lines))


class SilentWriter:
    """Stands for the writer on the processes that write nothing."""

    def __init__(self, workdir: epath.Path, *, resume_step: int) -> None:
        """Reads what the first process has written before this start."""
        self._done = {
            (line["step"], line["split"])
            for line in read_lines(workdir / "metrics.jsonl")
            if line["step"] <= resume_step
        }

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes nothing."""

    def has(self, step: int, split: str) -> bool:
        """Whether the first process has a line for this step and split."""
        return (step, split) in self._done

    def close(self) -> None:
        """Closes nothing."""


def open_writer(workdir: epath.Path, *, resume_step: int) -> Writer | SilentWriter:
    """The writer of this process; the first one alone writes."""
    kind = Writer if parallel.is_first_process() else SilentWriter
    return kind(workdir, resume_step=resume_step)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    names = ("bottlenecks", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def write_whole(path: epath.Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one, never a part.

    Raises:
      UserError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


def read_lines(path: epath.Path) -> list[dict]:
    """The lines of a run's `metrics.jsonl`; none where there is no such file."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        # A line cut short by a kill came after the last checkpoint, and will be written again.
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def _is_local(path: epath.Path) -> bool:
    return "://" not in str(path)


def _event_writer(workdir: epath.Path) -> object | None:
    # clu's writer imports TensorFlow and TensorBoard, which only the `tfds` extra brings.
    if any(importlib.util.find_spec(name) is None for name in ("tensorflow", "tensorboard")):
        return None
    from clu import metric_writers

    return metric_writers.SummaryWriter(str(workdir))
