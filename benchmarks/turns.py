"""Programs that are compared take turns: each lives in a process of its own and runs when told to.

The one that asks holds a `Contender` for each and calls `run`; the one asked holds a `Turns`. They
speak in lines of JSON over the pipes. Nobody computes while another is being timed, so that a
disturbance of the machine meets all alike, and each process's peak memory is its own.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time


class Contender:
    """A program in its own process, heard at once: it sets itself up and does its first step."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # A compilation found in a cache would say nothing about compile time.
            env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
            text=True,
        )
        self.first = self._hear()

    def run(self, steps: int) -> dict:
        """Lets it do some steps; returns what it reports: seconds, error, and so on."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # tells it to end
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _hear(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"{self.name} failed:\n{self._log.read()[-3000:]}")
        return json.loads(line)


class Turns:
    """Where a contender waits for its turn and says how it went."""

    def __init__(self) -> None:
        # What is printed by accident goes to the log and not between our lines.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def report(self, **figures: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux
        self._answers.write(json.dumps({**figures, "peak_bytes": peak}) + "\n")
        self._answers.flush()

    def wait(self) -> int | None:
        """How many steps to do now; None: no more."""
        line = sys.stdin.readline()
        return int(line) if line else None

    def serve(self, one_step, **about: object) -> None:
        """Takes turns until the end; `one_step()` starts a step and returns its error, unread.

        The first step is timed on its own, for it is the one that compiles.
        """
        start = time.perf_counter()
        error = float(one_step())
        self.report(first_step=time.perf_counter() - start, error=error, **about)
        while steps := self.wait():
            start = time.perf_counter()
            errors = [one_step() for _ in range(steps)]
            float(errors[-1])  # waits for the device
            seconds = time.perf_counter() - start
            self.report(seconds=seconds, error=sum(map(float, errors)) / steps)
