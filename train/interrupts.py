"""SIGTERM and Ctrl-C: told once, a run saves and stops; Ctrl-C twice stops it at once."""

import signal
import threading
from types import FrameType, TracebackType

from train import parallel

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Notes, while entered, that the run was told to stop.

    Alone, a process looks at its own signals. Several processes stop when SIGTERM reached any of
    them, all at the same call of `requested`; there, Ctrl-C keeps its meaning.
    """

    def __init__(self) -> None:
        self._told = False
        self._calls = 0
        self._before = {}

    def __enter__(self) -> "Interrupts":
        # JAX's own handler of SIGTERM tells the other processes, so it has to stay. Python allows
        # handlers in the main thread alone; elsewhere signals keep their meaning.
        alone = not parallel.has_peers()
        if alone and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether to stop here. All processes must ask at the same places, equally often."""
        self._calls += 1
        return self._told or (parallel.has_peers() and parallel.preempted(self._calls))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._told and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._told = True
