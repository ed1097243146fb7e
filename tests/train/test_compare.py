"""A comparison of two tiny runs, and what else one does with trained runs, through the commands."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath

import train
from configs import topographic_vae_digits
from models.likelihoods import to_unit
from train import comparison_tables, denoise, latents, runs, sparse
from train.compare import named
from train.comparison_figures import Measured
from train.errors import UserError
from train.metrics.rate import Rate

ROOT = Path(__file__).parents[2]
COMPARISON = """
from ml_collections import ConfigDict

from configs import scvae_digits, vqvae_digits


def get_config():
    config = ConfigDict()
    config.name = "compare_tiny"
    config.seeds = (0,)
    config.curves = (("PSNR, dB", "psnr", 2), ("codes", "perplexity", 1))
    config.runs = ConfigDict({
        "sparse": scvae_digits.get_config(), "vq": vqvae_digits.get_config(),
    })
    for run in config.runs.values():
        run.model.backbone.widths = (8,)
        run.model.backbone.last_width = 8
        run.model.backbone.residual_layers = 0
        run.data.limit = 200
        run.train.steps = 30
        run.evaluation.every = 0
        run.optimizer.learning_rate = 1e-2
    return config
"""


def command(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"train.{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # compiles in half the time
        capture_output=True,
        text=True,
        timeout=600,
    )


def table_of(folder):
    with (folder / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    (folder / "compare_tiny.py").write_text(COMPARISON)
    result = command("compare", "--config", folder / "compare_tiny.py", "--workdir", folder / "w")
    assert result.returncode == 0, result.stderr[-2000:]
    return folder / "w", result.stdout


def test_a_comparison_leaves_tables_and_pictures(compared):
    folder, printed = compared
    table = (folder / "comparison.md").read_text()
    assert table.strip() in printed
    rows = table_of(folder)
    assert [row["system"] for row in rows] == ["sparse", "vq"]
    for row in rows:
        assert float(row["psnr"]) > 10
        assert float(row["bits"]) > 0
        assert float(row["psnr_at_bits"]) >= float(row["psnr"]) - 0.2
    assert float(rows[1]["bits"]) <= float(rows[1]["nominal_bits"]) == 16 * 6
    assert float(rows[0]["non_zeros"]) < float(rows[0]["entries"]) == 16 * 32
    lines = [json.loads(line) for line in (folder / "comparison.jsonl").read_text().splitlines()]
    assert len(lines[0]["curve"]) > 5
    assert len(lines[1]["curve"]) == 1
    curves = (folder / "comparison_curves.md").read_text()
    assert curves.strip() in printed
    assert "| step | sparse (1) | vq (1) |" in curves
    assert f"| 30 | {float(rows[0]['psnr']):.2f} |" in curves
    page = (folder / "comparison.html").read_text()
    assert f"<td>{float(rows[0]['psnr']):.2f}</td>" in page
    assert "What a linear probe reads" in page
    assert "What training costs" in page
    for row in rows:
        assert float(row["probe_accuracy"]) > 0.5
        assert float(row["parameters"]) > 1000
        assert float(row["seconds_per_step"]) > 0
    for name in ("rate_distortion.png", "reconstructions.png", "comparison_curves.png"):
        assert (folder / name).stat().st_size > 1000


def test_the_figures_are_those_of_the_evaluation_where_no_noise_is_drawn(compared):
    rows = table_of(compared[0])
    for row in rows:
        path = compared[0] / row["system"] / "seed0" / "evaluation.json"
        evaluated = json.loads(path.read_text())["values"]
        for name in ("psnr", "ssim", "nmse"):
            assert float(row[name]) == pytest.approx(evaluated[name], rel=1e-4)


def test_runs_that_exist_are_compared_by_their_folders(compared, tmp_path):
    folder = compared[0]
    runs = [folder / "sparse" / "seed0", folder / "vq" / "seed0"]
    assert named([str(run) for run in runs]) == [
        (str(runs[0]), "scvae_digits"),
        (str(runs[1]), "vqvae_digits"),
    ]
    result = command("compare", "--workdir", tmp_path)
    assert result.returncode == 2
    assert "--config" in result.stderr
    with pytest.raises(UserError, match="not the folder of a run"):
        named([str(tmp_path)])


def test_figures_of_the_evaluations_are_compared_where_they_are_named(compared, tmp_path):
    folders = [compared[0] / system / "seed0" for system in ("sparse", "vq")]
    result = command("compare", "--workdir", tmp_path, "--figures=psnr,perplexity", *folders)
    assert result.returncode == 0, result.stderr[-2000:]
    values = [json.loads((run / "evaluation.json").read_text())["values"] for run in folders]
    table = (tmp_path / "comparison.md").read_text()
    assert table.splitlines()[0] == "| system | seeds | psnr | perplexity |"
    assert f"| scvae_digits | 1 | {values[0]['psnr']:.4f} | - |" in table
    assert f"{values[1]['psnr']:.4f} | {values[1]['perplexity']:.4f} |" in table
    assert table.strip() in result.stdout
    assert "<h2>Results</h2>" in (tmp_path / "comparison.html").read_text()


def test_only_runs_on_the_same_test_images_are_compared(tmp_path):
    def saved(name, **data):
        config = topographic_vae_digits.get_config()
        config.data.update(data)
        (tmp_path / name).mkdir()
        runs.save_config(epath.Path(tmp_path / name), config)
        return str(tmp_path / name)

    both = {"test_transformations": ("rotation+hue",)}
    alone, tested = saved("alone"), saved("tested", **both)
    trained = saved("trained", transformations=("rotation+hue",))
    # Trained on one, tested on both; trained and tested on both.
    assert len(named([tested, trained])) == 2
    for other in (tested, saved("longer", frames=9), saved("split", split_seed=1)):
        with pytest.raises(UserError, match="both must be"):
            named([alone, other])


def test_means_and_spreads_over_seeds():
    values = {name: 1.0 for _, name, _ in comparison_tables.COLUMNS}
    runs = [
        Measured("a", seed, values | {"psnr": psnr}, [Rate(0, 1, psnr)])
        for seed, psnr in enumerate((20.0, 21.0, 22.0))
    ]
    runs.append(runs[0]._replace(system="b", values=values | {"psnr": math.nan}))
    lines = comparison_tables.markdown(runs).splitlines()
    assert "| a | 3 | 21.00 ± 1.00 |" in lines[2]
    assert "| b | 1 | - |" in lines[3]


def test_the_sparse_command_draws_and_counts(compared):
    folder = compared[0] / "sparse" / "seed0"
    result = command("sparse", "--workdir", folder)
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads((folder / "sparse.json").read_text())
    curve = figures["curve"]
    evaluated = json.loads((folder / "evaluation.json").read_text())["values"]
    # All entries kept: the figures of the evaluation, whose test split is all looked at.
    assert curve[-1]["psnr"] == pytest.approx(evaluated["psnr"], abs=1e-3)
    assert curve[-1]["non_zeros"] == pytest.approx(evaluated["non_zeros"], rel=1e-4)
    assert curve[0]["non_zeros"] == 0
    assert np.count_nonzero(figures["atom_use"]) == evaluated["used_atoms"]
    for name in ("sparsity_curve", "atoms", "atoms_of_patches", "interpolation", "edits"):
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 1000
    refused = command("sparse", "--workdir", compared[0] / "vq" / "seed0")
    assert refused.returncode == 2
    assert "sparse codes" in refused.stderr


def test_codes_interpolate_and_are_edited_between_their_ends(compared):
    run = train.load(str(compared[0] / "sparse" / "seed0"))
    images = latents.images(run, limit=3)
    made = latents.decode(run, latents.encode(run, images))
    between = latents.interpolate(run, images[0], images[1], weights=(0, 0.5, 1))
    np.testing.assert_allclose(between[[0, 2]], made[:2], atol=1e-5)
    atom = int(np.argmax(np.sum(np.abs(latents.encode(run, images[:1])), axis=(0, 1, 2))))
    edited = sparse.scale_atom(run, images[0], atom=atom, scales=(0.0, 1.0))
    np.testing.assert_allclose(edited[1], made[0], atol=1e-5)
    assert np.max(np.abs(edited[0] - made[0])) > 1e-3


def test_keeping_the_largest_entries():
    code = np.array([[3.0, -4.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(
        sparse.keep_largest(code, 2), [[3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    )
    np.testing.assert_array_equal(sparse.keep_largest(code, 0), 0 * code)
    np.testing.assert_array_equal(sparse.keep_largest(code, 9), code)


def test_denoising_counts_from_the_clean_image(compared):
    folder = compared[0] / "vq" / "seed0"
    result = command("denoise", "--workdir", folder)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = json.loads((folder / "denoising.json").read_text())
    assert [row["level"] for row in rows] == list(denoise.LEVELS)
    evaluated = json.loads((folder / "evaluation.json").read_text())["values"]
    assert rows[0]["decoded"] == pytest.approx(evaluated["psnr"], abs=1e-3)
    images = np.full((2, 8, 8, 1), 128, np.uint8)
    spoiled = denoise.noisy(images, level=25)
    assert float(np.std(spoiled - to_unit(images))) == pytest.approx(25 / 255, rel=0.1)
    np.testing.assert_array_equal(spoiled, denoise.noisy(images, level=25))
    assert rows[3]["noisy"] == pytest.approx(10 * math.log10((255 / 50) ** 2), abs=2.5)
