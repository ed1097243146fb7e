"""Times several programs in turn, so that a busy machine is busy for each of them."""

import statistics
import time
from collections.abc import Callable


def compare(programs: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each program in each round; the first, untimed call is for compilation.

    A program returns when its work is done: block until ready inside it.
    """
    for run in programs.values():
        run()
    seconds = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(title: str, seconds: dict[str, list[float]], *, ours: str) -> None:
    """Prints medians, and how many times as fast as each program ours is, round by round."""
    print(f"\n{title}")
    for name, times in seconds.items():
        line = f"  {name:<28} {statistics.median(times) * 1e3:9.1f} ms"
        if name != ours:
            ratios = [other / own for other, own in zip(times, seconds[ours], strict=True)]
            line += (
                f"   {ours} is {statistics.median(ratios):5.2f} times as fast "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(line)
