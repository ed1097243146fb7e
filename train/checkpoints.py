"""Checkpoints of a run, by Orbax: written in the background, read back on any set of devices."""

import contextlib
import gc
import inspect
import logging
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from train import parallel
from train.errors import UserError
from train.state import TrainState

log = logging.getLogger("train")
_FILE = 8192  # bytes on disk that a leaf takes at least, with its description


class _Manager(ocp.CheckpointManager):
    """Orbax's, except that it does not ask JAX whether to stop: each asking moves JAX's count."""

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints below `directory`: the newest `keep`, each with the state and a note of it.

    Use as a context manager: leaving it waits for the last write.
    """

    def __init__(self, directory: str | epath.Path, *, keep: int, read_only: bool = False) -> None:
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_is_news)
        directory = epath.Path(directory)
        # Orbax takes absolute paths alone; resolving a bucket's would spoil it.
        self.directory = directory if directory.is_absolute() else directory.resolve()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            # The loop decides when to save; a reader never does.
            save_interval_steps=0 if read_only else 1,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = _Manager(self.directory, options=options, item_names=("state", "meta"))

    def __enter__(self) -> "Checkpoints":
        self._hook, sys.unraisablehook = sys.unraisablehook, _drop_orphans(sys.unraisablehook)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.wait()
        except UserError:
            if kind is None:
                raise
        finally:
            # It waits once more, and raises once more what `wait` has told.
            with contextlib.suppress(Exception):
                self._manager.close()
            sys.unraisablehook = self._hook

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, oldest first."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts writing the state; returns when its values have been copied off the devices.

        Raises:
          UserError: this or the previous checkpoint could not be written (a full disk, say), or
            the state is not finite.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._check_finite(state)
        self._check_room(state)
        meta = {**meta, "step": step, "checksum": _checksum(state)}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(parallel.to_global(state)),
                    meta=ocp.args.JsonSave(meta),
                ),
                force=True,
            )
        except Exception as error:
            raise self._cannot_write(error) from error

    def wait(self) -> None:
        """Returns when the last save is complete on disk; raises UserError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._cannot_write(error) from error

    def last_good(self) -> str:
        """Says which checkpoint a run that went wrong has to go back to."""
        with contextlib.suppress(UserError):
            self.wait()
        steps = self.steps()
        return (
            f"the last good checkpoint is that of step {steps[-1]}" if steps else "none was saved"
        )

    def _check_finite(self, state: TrainState) -> None:
        # A figure in the window may have no value at times; what is learned must have one.
        for path, leaf in jax.tree.leaves_with_path(state._replace(window=None)):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(_local(leaf)).all():
                raise UserError(
                    f"not all of {jax.tree_util.keystr(path)} is finite after step "
                    f"{int(state.step)}; {self.last_good()}. Try a smaller "
                    "optimizer.learning_rate, optimizer.clip_norm=1, or more warm-up"
                )

    def _check_room(self, state: TrainState) -> None:
        # Orbax notices a full disk while it writes, in threads that print what they think of it.
        if "://" in str(self.directory) or parallel.has_peers():
            return
        self.wait()
        leaves = jax.tree.leaves(state)
        needed = sum(leaf.nbytes for leaf in leaves) + _FILE * len(leaves)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._cannot_write(OSError(f"it needs up to {needed:,} bytes, {free:,} are free"))

    def _cannot_write(self, error: Exception) -> UserError:
        intact = ", ".join(map(str, self.steps())) or "none"
        full = "No space left" in str(error) or "quota" in str(error)
        reason = "no space is left" if full else " ".join(str(error).split())[:300]
        return UserError(
            f"a checkpoint could not be written to {self.directory}: {reason}. Complete "
            f"checkpoints: {intact}. Make room or choose another --workdir, and start again"
        )

    def meta(self, step: int) -> dict[str, Any]:
        """The note saved beside the state at `step`."""
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))[
            "meta"
        ]

    def restore(self, abstract: TrainState, *, repair: bool = False) -> TrainState | None:
        """The newest state that can be read whole, or None if there is no checkpoint.

        A damaged checkpoint is named in a warning and the one before it is tried; with `repair` it
        is moved aside, so that its step can be written again.

        Args:
          abstract: the state's shapes and dtypes (`jax.eval_shape`).
          repair: the caller goes on to write here.

        Raises:
          UserError: there are checkpoints, but none can be read into such a state.
        """
        steps = self.steps()
        reasons = []
        for step in reversed(steps):
            state, reason = self._try_to_read(step, abstract)
            if state is None:
                reasons.append(f"step {step}: {reason}")
                log.warning("checkpoint %s cannot be read (%s)", self.directory / str(step), reason)
                continue
            if repair:
                for bad in steps[steps.index(step) + 1 :]:
                    self._move_aside(bad)
            if reasons:
                log.warning("going on from the checkpoint before it: step %d", step)
            return state
        if reasons:
            raise UserError(
                f"no checkpoint below {self.directory} can be read; {reasons[0]}. "
                "If it was written by another config or version, use that one, or a new --workdir"
            )
        return None

    def _try_to_read(self, step: int, abstract: TrainState) -> tuple[TrainState | None, str]:
        """The state, or None and why not."""
        try:
            return self._read(step, abstract), ""
        except Exception as error:  # whatever Orbax makes of a damaged file
            reason = " ".join(str(error).split())[:200]
        # What the error held on to can go now, and has something to say in going.
        time.sleep(0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()
        return None, reason

    def _read(self, step: int, abstract: TrainState) -> TrainState:
        sharding = parallel.replicated()
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
            ),
        )
        if restored["meta"]["checksum"] != _checksum(restored["state"]):
            raise ValueError("its values do not match the checksum written with them")
        return restored["state"]

    def _move_aside(self, step: int) -> None:
        if parallel.is_first_process():
            name, count = f"damaged-checkpoint-{step}", 1
            while (aside := self.directory.parent / name).exists():
                count += 1
                name = f"damaged-checkpoint-{step}-{count}"
            (self.directory / str(step)).rename(aside)
            log.warning("moved the damaged checkpoint to %s", aside)
        parallel.wait_for_all(f"moved aside {step}")
        self._manager.reload()


def _is_news(record: logging.LogRecord) -> bool:
    """Not so the tracebacks of what Orbax also raises: here that becomes one line.

    Nor that a reader only reads.
    """
    by_orbax = record.exc_info and "orbax" in record.pathname
    known = ("exception was never retrieved", "Given directory is read only")
    return not (by_orbax or any(text in record.getMessage() for text in known))


def _drop_orphans(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The hook `sys.unraisablehook`, deaf to what is left of Orbax's work after an error.

    Orbax gives up at the first error. Its other reads and writes then find nobody to report to, and
    say so on the error stream, some of them a little later.
    """

    def hear(event: Any) -> None:
        closed = str(event.exc_value) == "Event loop is closed"
        if not (closed or inspect.iscoroutine(event.object)):
            hook(event)

    return hear


def _checksum(state: TrainState) -> int:
    """CRC-32 over the bytes of all leaves, in tree order: Orbax fills a lost file with zeros."""
    checksum = 0
    for leaf in jax.tree.leaves(state):
        checksum = zlib.crc32(np.ascontiguousarray(_local(leaf)).tobytes(), checksum)
    return checksum


def _local(leaf: Any) -> np.ndarray:
    """A leaf's copy in this process, on the host."""
    return np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
