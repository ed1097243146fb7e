"""Speed of the pure functions against other libraries, on this machine: one command.

    pip install -e '.[bench]' && python benchmarks/functions.py

Every program and its peers run in turn, in one process, on the same data; printed are medians, and
how many times as fast ours is round by round.
"""

import argparse
import os
import sys

# Threads of one library that wait for work must not hold the cores that the other one needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

SECTIONS = ("vq", "sparse", "routing")


def main() -> None:
    """Runs the sections named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown or options.rounds < 1:
        parser.error(f"sections are {', '.join(SECTIONS)}, rounds 1 or more; got {sys.argv[1:]}")

    import importlib

    import jax

    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, {jax.devices()[0].device_kind}, jax {jax.__version__}")
    for section in options.sections or SECTIONS:
        importlib.import_module(f"bench_{section}").main(options.rounds)


if __name__ == "__main__":
    main()
