"""Figures of compared runs at every evaluated step: table, file and picture."""

import csv
import json

import numpy as np
import pytest
from etils import epath

from train import comparison_curves
from train.errors import UserError

COLUMNS = (("PSNR, dB", "psnr", 1), ("codes", "used", 0))


@pytest.fixture
def curves(tmp_path):
    """Two seeds of one system, and a run of another that was measured less often."""
    made = []
    for system, seed, psnr in (("a", 0, 20), ("a", 1, 22), ("b", 0, 30)):
        lines = [{"step": 5, "split": "train", "psnr": 99.0}]
        for step in (5, 10) if system == "a" else (10,):
            figures = {"psnr": psnr + step / 10} | ({"used": 7.0} if system == "b" else {})
            lines.append({"step": step, "split": "test", **figures})
        folder = tmp_path / f"{system}{seed}"
        folder.mkdir()
        # As a kill leaves it: the last line cut short.
        text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 15, "spl'
        (folder / "metrics.jsonl").write_text(text)
        made.append(comparison_curves.read(epath.Path(folder), system, seed=seed))
    return made


def test_a_row_for_each_step_and_a_column_for_each_system(curves):
    psnr, used = comparison_curves.markdown(curves, COLUMNS).split("\n\ncodes\n\n")
    assert psnr.splitlines()[2:] == [
        "| step | a (2) | b (1) |",
        "| --- | --- | --- |",
        "| 5 | 21.5 ± 1.4 | - |",
        "| 10 | 22.0 ± 1.4 | 31.0 |",
    ]
    assert used.splitlines()[2] == "| 10 | - | 7 |"


def test_the_file_has_a_line_for_each_run_and_step_and_the_picture_is_drawn(curves, tmp_path):
    comparison_curves.write(epath.Path(tmp_path), curves, COLUMNS)
    with (tmp_path / "comparison_curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["system"], row["seed"], row["step"]) for row in rows] == [
        ("a", "0", "5"), ("a", "0", "10"), ("a", "1", "5"), ("a", "1", "10"), ("b", "0", "10"),
    ]  # fmt: skip
    np.testing.assert_allclose([float(row["psnr"]) for row in rows], [20.5, 21, 22.5, 23, 31])
    assert [row["used"] for row in rows] == ["", "", "", "", "7.0"]
    comparison_curves.draw(curves, COLUMNS, epath.Path(tmp_path / "curves.png"))
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_run_that_was_never_measured_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "split": "train", "psnr": 9.0}\n')
    curve = comparison_curves.read(epath.Path(tmp_path), "a", seed=3)
    assert curve.values == {}
    with pytest.raises(UserError, match="a, seed 3, was never evaluated"):
        comparison_curves.write(epath.Path(tmp_path), [curve], COLUMNS)
