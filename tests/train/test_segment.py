"""Segmentation by clustering codes: controls find what is trivial to find, runs go through it."""

import json
import logging
import runpy
import shutil
import sys

import jax
import numpy as np
import pytest
from absl import flags
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from configs import base
from train import parallel, patch_features, runs, segment
from train.checkpoints import Checkpoints
from train.errors import UserError
from train.state import evaluation_variables

# runpy's own, where a command's module has been imported before.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")

CONVNET = {"name": "convnet", "widths": (4,), "last_width": None, "residual_layers": 0}
VQGAN = {
    "name": "vqgan",
    "ch": 4,
    "ch_mult": (1, 1),
    "num_res_blocks": 1,
    "attn_resolutions": (8,),
    "z_channels": 4,
    "groups": 2,
}
BOTTLENECKS = {
    "sparse": base.sparse_coder(depth=3, atoms=5, penalty=0.1),
    "vq": base.ema_codebook(codes=6, depth=3),
    "gaussian": ConfigDict({"name": "gaussian", "depth": 3}),
}


def config_of(bottleneck, backbone=CONVNET, shape=(16, 8, 3)):
    config = base.get_config()
    config.name = "tiny"
    config.model.image_shape = shape
    config.model.backbone = ConfigDict(backbone)
    config.model.bottleneck = BOTTLENECKS[bottleneck]
    terms = {"sparse": ("latent", "l1"), "vq": ("commitment",), "gaussian": ("kl",)}
    names = ("reconstruction", *terms[bottleneck])
    config.loss_weights = ConfigDict(dict.fromkeys(names, 1.0))
    return config


def drawn_state(config):
    """What a run might hold after 3 steps: nothing is compiled for it."""
    random = np.random.default_rng(0)

    def draw(x):
        fractions = jax.numpy.issubdtype(x.dtype, np.floating)
        values = random.normal(size=x.shape) if fractions else np.ones(x.shape)
        return jax.numpy.asarray(values, x.dtype)

    return jax.tree.map(draw, runs.abstract_state(config))._replace(step=jax.numpy.int32(3))


def run_of(config):
    return runs.Run(
        runs.build_model(config), evaluation_variables(drawn_state(config)), config, step=3
    )


@pytest.fixture(scope="module")
def photograph():
    return np.random.default_rng(3).integers(0, 256, (20, 32, 3), np.uint8)


# ---------------------------------------------------------------- features


@pytest.mark.parametrize("bottleneck", BOTTLENECKS)
def test_a_run_sees_whole_photographs(bottleneck):
    run = run_of(config_of(bottleneck))
    encoder = patch_features.run_encoder(run)
    assert (encoder.stride, encoder.depth) == (2, 3)
    # A pattern of 6 x 4 pixels all over: the code repeats with it, but for the edges.
    pattern = np.random.default_rng(1).integers(0, 256, (6, 4, 3), np.uint8)
    features = encoder.features(np.tile(pattern, (4, 5, 1)))
    assert features.shape == (12, 10, 5 if bottleneck == "sparse" else 3)
    assert features.dtype == np.float32
    inside = features[1:-1, 1:-1]
    np.testing.assert_allclose(inside[3:], inside[:-3], atol=1e-5)
    np.testing.assert_allclose(inside[:, 2:], inside[:, :-2], atol=1e-5)
    assert np.abs(inside[1:] - inside[:-1]).max() > 0.1
    if bottleneck == "vq":  # codewords, for their numbers have no distances
        (codebook,) = np.asarray(run.variables["codebook"]["bottleneck"]["state"].codebook)
        apart = np.abs(features[:, :, None] - codebook).max(axis=-1)
        assert apart.min(axis=-1).max() < 1e-6


@pytest.mark.parametrize(
    ("shape", "backbone", "expected"),
    [
        ((16, 8, 1), CONVNET, "images of 1 channels; expected 3, RGB"),
        (
            (16, 8, 3),
            {"name": "mlp", "widths": (4,)},
            r"code of tiny is \[3\] .*grid of positions",
        ),
        ((16, 16, 3), VQGAN, "other layers for images that are not 16x16"),
    ],
)
def test_runs_that_do_not_see_whole_photographs(shape, backbone, expected):
    with pytest.raises(UserError, match=expected):
        patch_features.run_encoder(run_of(config_of("vq", backbone, shape)))


def test_patches_are_the_pixels_around_a_cell(photograph):
    inside = patch_features.patches(photograph, stride=4, side=8)
    assert inside.shape == (5, 8, 8 * 8 * 3)
    window = photograph[4 * 2 - 2 : 4 * 2 + 6, 4 * 3 - 2 : 4 * 3 + 6]
    np.testing.assert_allclose(inside[2, 3], window.ravel() / 255, atol=1e-6)
    # Over the edge: row -1 is row 1, as in a mirror that stands on row 0.
    corner = inside[0, 0].reshape(8, 8, 3)
    np.testing.assert_array_equal(corner[1, 2:], corner[3, 2:])
    np.testing.assert_array_equal(corner[0, 2:], corner[4, 2:])

    cells = patch_features.patches(photograph, stride=4, side=4).reshape(5, 8, 16, 3)
    colours = patch_features.mean_colour(photograph, stride=4)
    np.testing.assert_allclose(colours, cells.mean(axis=2), atol=1e-6)


def test_pooled_is_the_mean_of_neighbours_with_the_edge_repeated():
    x = np.random.default_rng(0).random((6, 4, 3), np.float32)
    expected = np.zeros_like(x)
    for row in range(6):
        for column in range(4):
            rows = np.clip(np.arange(row - 2, row + 3), 0, 5)
            columns = np.clip(np.arange(column - 2, column + 3), 0, 3)
            expected[row, column] = x[rows][:, columns].mean(axis=(0, 1))
    np.testing.assert_allclose(patch_features.pooled(x, side=5), expected, atol=1e-6)


def test_unit_length():
    x = patch_features.unit_length(np.array([[[3.0, -4.0], [0.0, 0.0]]]))
    np.testing.assert_allclose(x, [[[0.6, -0.8], [0, 0]]])


def test_all_principal_components_keep_every_distance(photograph):
    codes = patch_features.principal_components(
        [photograph, photograph[::-1]], stride=4, side=4, depth=100, seed=0
    )(photograph)
    assert codes.shape == (5, 8, 48)  # no more than there are pixels
    rows = codes.reshape(40, 48)
    pixels = patch_features.patches(photograph, stride=4, side=4).reshape(40, 48)
    apart = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (rows, pixels)]
    np.testing.assert_allclose(*apart, atol=1e-4)
    spread = patch_features.principal_components([photograph], stride=4, side=4, depth=3, seed=0)(
        photograph
    ).reshape(40, 3)
    covariance = np.cov(spread.T)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)
    assert (np.diff(np.diag(covariance)) <= 0).all()


# ---------------------------------------------------------------- segments


def test_clusters_are_found_and_the_same_each_time():
    truth = np.arange(2500).reshape(50, 50) % 3  # more positions than the means are fitted to
    x = 10 * np.eye(3)[truth] + np.random.default_rng(0).normal(size=(50, 50, 3))
    x = np.concatenate([x, np.zeros((50, 50, 4))], axis=-1).astype(np.float32)
    labels = segment.cluster(x, clusters=3)
    assert len({(a, b) for a, b in zip(labels.flat, truth.flat, strict=True)}) == 3
    np.testing.assert_array_equal(labels, segment.cluster(x, clusters=3))


def test_fewer_kinds_of_positions_than_clusters():
    x = np.zeros((4, 5, 2), np.float32)
    assert segment.cluster(x, clusters=3).max() == 0
    x[:2] = 1
    assert len(np.unique(segment.cluster(x, clusters=3))) == 2


@pytest.mark.parametrize(
    ("size", "clusters", "shape"),
    [((4, 6), 1, (1, 1)), ((4, 6), 4, (2, 2)), ((6, 4), 2, (2, 1)), ((4, 8), 8, (2, 4))],
)
def test_blocks(size, clusters, shape):
    found = segment.blocks(*size, clusters)
    side = size[0] // shape[0], size[1] // shape[1]
    expected = np.arange(clusters).reshape(shape).repeat(side[0], 0).repeat(side[1], 1)
    np.testing.assert_array_equal(found, expected)


def test_views_of_codes_and_of_pixels():
    x = np.random.default_rng(0).normal(size=(7, 7, 3)).astype(np.float32)
    assert list(segment.views(x, coded=False)) == ["", ", pooled"]
    np.testing.assert_array_equal(segment.views(x, coded=False)[""], x)
    found = segment.views(x, coded=True)
    np.testing.assert_allclose(np.linalg.norm(found[""], axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(
        found[", magnitudes"][3, 3], np.abs(found[""][1:6, 1:6]).mean(axis=(0, 1)), atol=1e-6
    )


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run's folder."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    config = config_of("gaussian")
    runs.save_config(epath.Path(folder), config)
    with Checkpoints(folder / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(drawn_state(config), {})
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, write_annotated):
    """Three photographs of a red and a blue part; two people agree, a third sees one region."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, size in (("a", (33, 49)), ("b", (49, 33)), ("c", (33, 49))):
        where = np.zeros(size, np.uint16)
        where[:, 16:] = 1  # the edge of a cell
        image = np.where(where[..., None] == 0, [200, 30, 30], [30, 40, 210]).astype(np.uint8)
        write_annotated(folder, name, image, [where + 1, where + 1, np.ones_like(where)])
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """`command(*options) -> output`, what it prints; or, of a mistake, the line that says so."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    monkeypatch.setattr(logging.getLogger("train"), "level", logging.NOTSET)
    # Joining a pod is for a process that has not used JAX yet.
    monkeypatch.setattr(parallel, "start", lambda: None)
    known = set(flags.FLAGS)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["segment", *map(str, options)])
        try:
            runpy.run_module("train.segment", run_name="__main__")
        except SystemExit:
            return capsys.readouterr().err.splitlines()[-1]
        finally:
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
        return capsys.readouterr().out

    return run


def test_the_command_finds_what_is_trivial_to_find(command, workdir, photographs, tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"
    for copy in (first, second):
        shutil.copytree(workdir, copy)
    options = (f"--images={photographs}", "--clusters=4,2")
    printed = command(f"--workdir={first}", f"--workdir={second}", *options)
    found = json.loads((first / "segmentation.json").read_text())
    assert found["photographs"] == ["a", "b", "c"]
    assert found["runs"] == [str(first), str(second)]
    two = found["clusters"]["2"]
    runs_views = {f"{name}{view}" for name in ("one", "two") for view in VIEWS}
    assert set(two) > runs_views | {"colour", "patches, pooled", "components, magnitudes"}
    assert two["one"] == two["two"]
    for method in ("colour", "colour, pooled", "patches"):
        # 1 by the two who saw two parts; 0 by the third, of whose one region IoU is the larger.
        assert two[method]["best_ari"] == [1, 1, 1], method
        np.testing.assert_allclose(two[method]["ari"], 2 / 3, atol=1e-4)
        shares = [32 / 48, 16 / 32, 32 / 48]
        np.testing.assert_allclose(two[method]["miou"], np.add(2, shares) / 3, atol=1e-4)
    assert max(two["at random"]["best_ari"]) < 0.2
    # The block at the right and that at the left of the tall one: half the picture each.
    assert two["grid of blocks"]["best_ari"][1] < 0.1 < two["grid of blocks"]["best_ari"][0] < 0.7

    blocks = printed.split("\n\n")
    assert blocks[0].startswith("2 clusters, 3 photographs")
    assert blocks[1].startswith("4 clusters")
    lines = blocks[0].splitlines()[2:]
    assert len(lines) == len(two)
    assert "+0.000 +- 0.000" in next(line for line in lines if line.startswith("colour, pooled"))
    scores = [float(line[25:].split()[2]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    with Image.open(first / "pictures" / "segmentation.png") as picture:
        # Two photographs of one size, drawn at a half; 8 columns.
        assert picture.width > 8 * 24
    assert not (second / "segmentation.json").exists()


VIEWS = ("", ", pooled", ", magnitudes")


def test_mistakes(command, workdir, photographs, write_annotated, tmp_path):
    run, images = f"--workdir={workdir}", f"--images={photographs}"
    assert "--workdir is missing" in command(images)
    assert "is not the folder of a run" in command(f"--workdir={tmp_path}", images)
    assert "--images is missing: a folder with images/" in command(run)
    assert "expected folders images/ (NAME.jpg)" in command(run, f"--images={tmp_path}")
    for clusters in ("", "two", "2,0", "-1", "2001"):
        message = command(run, images, f"--clusters={clusters}")
        assert f"--clusters is {clusters!r}; expected numbers from 1 to 2000" in message
    assert "--patch is 5; a cell is 2: expected 2 + 2n" in command(run, images, "--patch=5")
    assert "--patch is 0" in command(run, images, "--patch=0")
    assert "a.jpg is 33x49, too small for patches of 36" in command(run, images, "--patch=36")
    message = command(run, images, "--clusters=500")
    assert "for 500 clusters of its 16x24 cells" in message
    assert "a run is given twice" in command(run, run, images)
    assert not (workdir / "segmentation.json").exists()


def test_runs_of_different_grids(monkeypatch):
    encoders = iter([patch_features.Encoder(None, 4, 2), patch_features.Encoder(None, 8, 2)])
    monkeypatch.setattr(runs, "load", lambda _: None)
    monkeypatch.setattr(patch_features, "run_encoder", lambda _: next(encoders))
    with pytest.raises(UserError, match=r"different grids .*\{'a': 4, 'b': 8\}"):
        segment.load_encoders(["runs/a", "runs/b"])
