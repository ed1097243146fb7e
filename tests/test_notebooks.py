"""The notebooks run from top to bottom, in an interpreter of their own, and are stored as run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What the notebooks of pure functions leave aside, and no notebook needs.
PURE = ("bottlenecks",)


def code_cells(path: Path) -> list[dict]:
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, tmp_path):
    cells = ["".join(cell["source"]) for cell in code_cells(path)]
    # Each cell by itself, so that a traceback names the cell; no cell may need IPython.
    program = (
        "import json, sys\n"
        "sys.modules['tensorflow'] = None  # as if it were not installed\n"
        "space = {'__name__': '__main__'}\n"
        "for i, cell in enumerate(json.load(sys.stdin)):\n"
        "    exec(compile(cell, f'cell {i}', 'exec'), space)\n"
        "print('loaded:', sorted({'flax', 'torch'} & set(sys.modules)))\n"
    )
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    for name in ("JAX_NUM_CPU_DEVICES", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):
        environment.pop(name, None)  # as a reader would run it
    environment.pop("DISPLAY", None)  # where Agg has none to miss, it does not warn
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = [] if path.stem in PURE else ["flax"]
    assert done.stdout.splitlines()[-1] == f"loaded: {loaded}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_with_its_outputs(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr", output  # a warning, or a path of some machine
