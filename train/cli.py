"""What the commands `python -m train...` share: flags, logging, errors in one line."""

import difflib
import inspect
import logging
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from train import parallel
from train.errors import UserError

_EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def define_workdir(what: str) -> None:
    """Defines `--workdir`, without which the command does not start."""
    flags.DEFINE_string("workdir", None, what)


def define_config() -> None:
    """Defines `--config FILE` and, by it, `--config.field=value` for every field in the file."""
    config_flags.DEFINE_config_file("config", None, "experiment to run, such as configs/X.py")
    # ml_collections lets whatever happens in a config file through, or hides it until later.
    flags.FLAGS["config"].parser = _ConfigParser()


def run(
    main: Callable[[list[str]], None],
    *,
    needs: tuple[str, ...] = ("config", "workdir"),
    arguments: bool = False,
) -> None:
    """Parses the command line, joins the pod, calls `main` and exits.

    `needs` names flags that must be given if the command has them; `arguments` says whether
    it takes words other than flags.

    Status 0 when it ends, 2 with one line on the error stream for a mistake of the user's; anything
    else is a defect of ours and keeps its traceback.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("train").setLevel(logging.INFO)
    try:
        rest = flags.FLAGS(sys.argv)
        # Orbax and TFDS remark on themselves at every start; parsing has just set the level.
        logging.getLogger("absl").setLevel(logging.ERROR)
        if len(rest) > 1 and not arguments:
            raise UserError(f"unexpected argument {rest[1]!r}; options are written --name=value")
        for name in needs:
            _check_given(name)
        parallel.start()
        main(rest)
    except UserError as error:
        _fail(error)
    except flags.IllegalFlagValueError as error:
        _fail(_expected(str(error)))
    except flags.Error as error:
        _fail(error)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(
            f"the devices' memory is too small: {str(error).splitlines()[0]}. Try a smaller "
            "train.batch_size or evaluation.batch_size, train.accumulate=2, model.remat=True or "
            "model.dtype=bfloat16"
        )


def _fail(error: Exception | str) -> None:
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


_NEEDED = {
    "config": "the experiment, such as --config configs/vqvae_digits.py",
    "workdir": "the folder of the run, such as --workdir runs/digits",
}


def _check_given(name: str) -> None:
    if name in flags.FLAGS and flags.FLAGS[name].value in (None, ""):
        raise UserError(f"--{name} is missing: {_NEEDED[name]}")


def _expected(message: str) -> str:
    """What absl says of a value that cannot be parsed, and what could be."""
    found = re.fullmatch(r"flag --([\w.]+)=(.*?): .*", message, re.DOTALL)
    if not found or found[1] not in flags.FLAGS:
        return message
    flag = flags.FLAGS[found[1]]
    if flag.flag_type() not in _EXPECTED:
        return message
    return f"--{found[1]} is {found[2]!r}; it must be {_EXPECTED[flag.flag_type()]}"


class _ConfigParser(flags.ArgumentParser):
    """Reads `FILE` or `FILE:VARIANT`: the file's `get_config()`, or `get_config(VARIANT)`."""

    def parse(self, argument: str) -> ConfigDict:
        """The config, locked, after a look at the names of the fields to be overridden."""
        file, *variant = argument.split(":", 1)
        where = f"--config {argument}"
        if not Path(file).is_file():
            raise UserError(f"{where}: no such file; configs/ holds some, as vqvae_digits.py")
        try:
            get_config = runpy.run_path(file).get("get_config")
            if get_config is None:
                raise UserError(f"{where}: there is no function get_config() in it")
            if variant and not inspect.signature(get_config).parameters:
                raise UserError(f"{where}: {file} has no variants; leave :{variant[0]} out")
            config = get_config(*variant)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{where}: {_place(error, file)}{error}") from error
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"{where}: get_config() returned {type(config).__name__}; it must return a "
                "ConfigDict, as configs.base.get_config() does"
            )
        for option in sys.argv[1:]:
            if override := re.match(r"--?(?:no)?config\.([^=]+)", option):
                _check_field(config, override[1])
        return config.lock()

    def flag_type(self) -> str:
        """For the text of --help."""
        return "config file"


def _place(error: Exception, file: str) -> str:
    """Type and line of an error in a config file; for a ValueError, which explains itself, none."""
    if type(error) is ValueError or isinstance(error, SyntaxError):
        return ""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f"line {lines[-1]}: " * bool(lines) + f"{type(error).__name__}: "


def _check_field(config: Any, path: str) -> None:
    """Refuses a field that is not in the config, and names the nearest that is."""
    names, section = path.split("."), "the config"
    for i, name in enumerate(names):
        if not isinstance(config, ConfigDict):
            raise UserError(f"--config.{path}: {section} is a value and has no fields")
        if name not in config:
            nearest = difflib.get_close_matches(name, config, n=1)
            way_out = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(config)}"
            raise UserError(f"--config.{path}: {section} has no field {name!r}; {way_out}")
        config, section = config[name], ".".join(names[: i + 1])
