"""The bar that shows how a run goes: steps a second, time left, loss, what the bottleneck does."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from train import parallel

SHOWN = ("loss", "nmse", "perplexity", "kl")


def watched(batches: Iterable[Any], *, total: int) -> Iterator[Any]:
    """Yields the batches of an evaluation, under a bar of its own where a person looks on."""
    hidden = not (parallel.is_first_process() and sys.stderr.isatty())
    bar = tqdm(
        batches, total=total, desc="evaluating", unit=" batches", leave=False, disable=hidden
    )
    return iter(bar)


class Progress:
    """A progress bar on the first process, and the time that the loop waited for data."""

    def __init__(self, *, total: int, done: int) -> None:
        self._waited = 0.0
        self._start = time.monotonic()
        self._first = done
        self._last_shown = 0.0
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" steps",
            mininterval=10.0 if quiet else 0.2,
            dynamic_ncols=not quiet,
            disable=not parallel.is_first_process(),
        )

    def waited(self, seconds: float) -> None:
        """Counts time in which the next batch was not there yet."""
        self._waited += seconds

    def wants_figures(self) -> bool:
        """Whether it is time to show new figures (about twice a second)."""
        return time.monotonic() - self._last_shown > 0.5

    def move(self, step: int) -> None:
        """Moves the bar to `step`."""
        self._bar.update(step - self._bar.n)

    def show(self, values: dict[str, float]) -> None:
        """Shows the figures that fit on the bar."""
        self._last_shown = time.monotonic()
        shown = {name: f"{float(values[name]):.4g}" for name in SHOWN if name in values}
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> str:
        """Ends the bar; returns one line about speed and waiting, since this start."""
        self._bar.close()
        seconds = time.monotonic() - self._start
        steps = self._bar.n - self._first
        return (
            f"{steps} steps in {seconds:.1f} s ({steps / seconds:.2f} a second, evaluation "
            f"included); {self._waited / seconds:.1%} of the time waiting for data"
        )
