"""What the README tells to type is what there is."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import bottlenecks as bn

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


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
