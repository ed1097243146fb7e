"""What the README tells to type is what there is."""

import argparse
import logging
import re
import runpy
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from sklearn.datasets import load_digits

import bottlenecks as bn
from train import checks, parallel

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SCRIPT = runpy.run_path(str(ROOT / "tests" / "readme_commands.py"))
COMMANDS = SCRIPT["commands"](README)
# What reads a config or other flags of ours, to be tried without a process; so do workers of a pod.
_REMOTE = re.compile(r"""gcloud .*(python -m train [^"'|]*?)(?: 2>&1.*)?["'].*""")
PARSED = [
    _REMOTE.sub(r"\1", command.text)
    for command in COMMANDS
    if SCRIPT["is_ours"](command.text) and not re.search("pytest|pip install", command.text)
]


def test_ci_runs_the_test_command_of_the_readme():
    command = "pip install -e '.[test]' && python -m pytest"
    assert command in README
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_files_named_in_the_readme_exist():
    named = set(re.findall(r"\b(?:configs|benchmarks|tests|models|train)/[\w/]+\.py\b", README))
    assert len(named) >= 5
    for name in named:
        assert "NAME" in name or (ROOT / name).is_file(), name


def test_configs_in_the_readme_and_the_folder_agree():
    for path in (ROOT / "configs").glob("*_*.py"):
        if path.stem == "__init__":
            continue
        assert f"`{path.stem}" in README, f"{path.stem} is not in the README's table"


def test_the_pure_functions_snippet_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (snippet,) = (block for block in blocks if "bn.kmeans" in block)
    features = load_digits().data.astype(np.float32) / 16
    names = {"features": jax.numpy.asarray(features)}
    exec(compile(snippet, "README.md", "exec"), names)
    before, after = names["start"].codebook, names["state"].codebook
    assert after.shape == (64, 64)
    assert 0 < float(np.abs(after - before).max()) < 1
    # 64 centres describe digits far better than their mean does.
    error = float(names["quantized"].commitment_loss.mean())
    assert error < 0.5 * float(features.var(axis=0).sum())


def test_functions_in_the_readme_exist():
    table = README[
        README.index("| family | functions") : README.index("notebooks/bottlenecks.ipynb")
    ]
    rows = [row.split("|")[2] for row in table.splitlines() if row.count("|") == 4]
    named = set(re.findall(r"`([a-z_.]+)`", "".join(rows)))
    assert len(named) > 40
    for name in named:
        place = bn.gaussian if name.startswith("gaussian.") else bn
        assert callable(getattr(place, name.split(".")[-1])), name


@pytest.mark.parametrize("word", ["NUMBERS_TABLE", "SPEED_TABLE"])
def test_no_place_is_left_open(word):
    assert word not in README


def test_commands_are_found_wherever_they_stand():
    readme = """
`python -m train --config configs/NAME.py --workdir runs/NAME`, and `python -m train.export` writes.

| config | time |
| --- | --- |
| `a`, `b:c`, `compare_a` | 1 s |
| `d` | not run: too long |

```bash
# a comment
pip install 'a && b' && python -m train.evaluate --workdir runs/a   # another
```

Some words, `code`, `--config.seed=1`, then `JAX_NUM_CPU_DEVICES=2 python -m train.sparse
--workdir runs/a`.

```python
python -m no.command
```
"""
    assert [(c.line, c.text) for c in SCRIPT["commands"](readme)] == [
        (11, "pip install 'a && b'"),
        (11, "python -m train.evaluate --workdir runs/a"),
        (14, "JAX_NUM_CPU_DEVICES=2 python -m train.sparse --workdir runs/a"),
        (2, "python -m train --config configs/a.py --workdir runs/a"),
    ]


def test_every_command_is_run_by_the_script_or_listed_in_it():
    assert len(COMMANDS) > 100
    for command in COMMANDS:
        listed = SCRIPT["why_not"](command.text) or SCRIPT["INSTALLS"].match(command.text)
        assert listed or SCRIPT["is_ours"](command.text), command


def test_the_script_lists_nothing_that_the_readme_does_not_say():
    texts = [command.text for command in COMMANDS]
    for pattern, _ in SCRIPT["NOT_RUN"]:
        assert any(re.match(pattern, text) for text in texts), pattern
    for pattern, _ in SCRIPT["SHORT"]:
        assert any(re.search(pattern, text) for text in texts), pattern
    for word in SCRIPT["WORDS"]:
        assert word in " ".join(README.split()), word
    for instead in SCRIPT["WORDS"].values():
        assert any(instead in text for text in texts), instead


def test_what_a_command_reads_is_made_by_a_command_or_named_like_its_config():
    made = [made for command in COMMANDS if (made := SCRIPT["makes"](command.text))]
    for command in COMMANDS:
        for folder in SCRIPT["reads"](command.text):
            by_name = ROOT / "configs" / f"{folder.removeprefix('runs/')}.py"
            assert by_name.is_file() or any(
                folder == other or folder.startswith(f"{other}/") for other in made
            ), (command, folder)


class Parsed(Exception):
    """A command has read its flags."""


# runpy's own, where a command's module has been imported before.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("in_short", [False, True], ids=["as it stands", "in short"])
@pytest.mark.parametrize("text", PARSED, ids=lambda text: text[7:70])
def test_flags_of_a_command_are_read(text, in_short, monkeypatch):
    if in_short:
        text = SCRIPT["shortened"](text)
    words = shlex.split(text)
    words = words[[Path(word).name for word in words].index("python") + 1 :]
    monkeypatch.chdir(ROOT)
    if words[0] != "-m":
        read_by_argparse(words, monkeypatch)
        return
    monkeypatch.setattr(sys, "argv", words[1:])
    # As `train.cli` sets them for a process.
    monkeypatch.setattr(logging.root, "handlers", [])
    for name in (None, "train", "absl"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(parallel, "start", raiser(Parsed))
    known = set(flags.FLAGS)
    try:
        with pytest.raises(Parsed):
            runpy.run_module(words[1], run_name="__main__")
        config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    if config is not None:
        for run in config.runs.values() if "runs" in config else [config]:
            checks.check_fields(ConfigDict(run.to_dict()))


def read_by_argparse(words, monkeypatch):
    """Starts a script, as far as its arguments are read."""
    read = argparse.ArgumentParser.parse_args

    def parse(self):
        read(self)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(Parsed):
        runpy.run_path(words[0], run_name="__main__")


def raiser(error):
    """A function that raises it."""

    def function():
        raise error

    return function


def test_fields_named_without_a_command_exist():
    known = set(checks.FIELDS)
    for path in (ROOT / "configs").glob("*_*.py"):
        if path.stem == "__init__":
            continue
        config = runpy.run_path(str(path))["get_config"]()
        for run in config.runs.values() if "runs" in config else [config]:
            known |= set(paths(run.to_dict()))
    named = set(re.findall(r"--config\.([\w.]+)=", README)) - {"x.y"}
    assert len(named) > 20
    assert named <= known


def paths(tree, start=""):
    """Names of a tree of dicts, as `train.steps`."""
    for name, value in tree.items():
        yield start + name
        if isinstance(value, dict):
            yield from paths(value, f"{start}{name}.")
