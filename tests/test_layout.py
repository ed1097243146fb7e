"""The house: which room may import which, and what importing all of it brings along."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("bottlenecks", "models", "train", "configs")
ALLOWED = {
    "bottlenecks": {"jax", "numpy", "chex", "bottlenecks"},
    "models": {"jax", "numpy", "chex", "flax", "bottlenecks", "models"},
    "configs": {"ml_collections", "configs"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert imports(path) <= ALLOWED[room], path


def test_train_does_not_import_configs():
    for path in (ROOT / "train").rglob("*.py"):
        assert "configs" not in imports(path), path


def test_no_file_is_two_things():
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
            assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")


def test_every_package_is_installed():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == found


def test_the_core_imports_neither_tensorflow_nor_torch():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    assert len(modules) > 30
    # `train.data.tfds_source` imports tensorflow_datasets only when a source asks for it.
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r} + ['tensorflow_datasets']: importlib.import_module(name)\n"
        "print(sorted({'tensorflow', 'torch', 'tensorboard'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
