"""What the commands `python -m train...` share: flags, logging, errors in one line."""

import logging
import sys
from collections.abc import Callable

import absl.logging
from absl import flags
from ml_collections import config_flags

from train import parallel
from train.errors import UserError


def define_workdir(what: str) -> None:
    """Defines `--workdir`, without which the command does not start."""
    flags.DEFINE_string("workdir", None, what, required=True)


def define_config() -> None:
    """Defines `--config FILE` and, by it, `--config.field=value` for every field in the file."""
    config_flags.DEFINE_config_file("config", None, "experiment to run, such as configs/X.py")
    flags.mark_flag_as_required("config")


def run(main: Callable[[list[str]], None], argv: list[str] | None = None) -> None:
    """Parses the command line, joins the pod, calls `main` and exits.

    Status 0 when it ends, 2 with one line on the error stream for a mistake of the user's; anything
    else is a defect of ours and keeps its traceback.
    """
    argv = sys.argv if argv is None else argv
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("train").setLevel(logging.INFO)
    # Orbax and TFDS remark on themselves through absl at every start.
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:  # --help
        raise
    except Exception as error:
        # ml_collections lets whatever happens in a config file through.
        _fail(error)
    if len(rest) > 1:
        _fail(f"unexpected argument {rest[1]!r}; options are written --name=value")
    try:
        parallel.start()
        main(rest)
    except UserError as error:
        _fail(error)


def _fail(error: Exception | str) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)
