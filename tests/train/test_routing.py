"""Routed capsules of a run: couplings, index maps, what capsules draw, the discriminator's map."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from bottlenecks.routing import dynamic_routing
from configs import base, cvvae_digits, vqvae_digits
from train import clusters, latents, routing, routing_pictures, runs
from train.adversarial_steps import build_adversary
from train.checkpoints import Checkpoints
from train.errors import UserError


def small(mode="agreement", *, adversary=False):
    """Capsules on digits, around the smallest network."""
    config = cvvae_digits.get_config(mode)
    config.model.backbone = base.convnet(widths=(4,), last_width=None)
    config.model.backbone.residual_layers = 0
    if mode == "agreement":
        config.model.bottleneck.update({"primaries": 3, "pose": 2, "outputs": 4, "depth": 2})
    else:
        config.model.bottleneck.update({"primaries": 2, "pose": 2, "depth": 3})
    config.model.data_variance = 0.1
    config.data.limit = 40
    if adversary:
        config.adversary.loss = "hinge"
        config.adversary.layers = 1
        config.adversary.width = 2
    return config


def untrained(config):
    """A run with random parameters."""
    state = runs.abstract_state(config)
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: random.normal(0, 0.5, x.shape).astype(x.dtype),
        {"params": state.params, **state.collections},
    )
    return runs.Run(runs.build_model(config), variables, config, 1)


@pytest.fixture(scope="module")
def run():
    return untrained(small())


@pytest.fixture(scope="module")
def images(run):
    return latents.images(run)


def test_couplings_are_those_of_every_iteration(run, images):
    found = routing.couplings(run, images[:5])
    assert found.shown.shape == (routing.POSITIONS, 3, 3, 4)
    np.testing.assert_allclose(found.shown.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.shown[:, 0], 1 / 4)

    votes = routing._routed(run.model, run.variables, images[:5])["votes"]
    assert votes.shape == (5, 4, 4, 3, 4, 2)
    for r in range(3):
        c = np.asarray(dynamic_routing(votes, iterations=r + 1).coupling, np.float64)
        assert found.entropy[r] == pytest.approx(-(c * np.log(c)).sum(-1).mean() / math.log(4))
        assert found.largest[r] == pytest.approx(4 * c.max(axis=-1).mean(), rel=1e-5)
    # Of each image the position whose inputs are the least evenly shared out.
    entropy = -(c * np.log(c)).sum(-1).mean(-1).reshape(5, -1)
    place = entropy[0].argmin()
    np.testing.assert_allclose(
        found.shown[0, -1], c[0].reshape(16, 3, 4)[place], rtol=1e-5, atol=1e-7
    )


def test_a_leak_takes_a_share(images):
    config = small()
    config.model.bottleneck.leaky = True
    found = routing.couplings(untrained(config), images[:2])
    assert found.shown.shape[-1] == 5
    assert found.entropy[0] == pytest.approx(1)


def test_scaling_a_capsule(run, images):
    code = latents.encode(run, images[:2])
    drawn = routing.scaled(run, code, (0.0, 1.0, 2.0))
    assert drawn.shape == (2, 4, 3, 8, 8, 1)
    np.testing.assert_allclose(drawn[:, 3, 1], latents.decode(run, code), atol=1e-5)
    for factor, column in ((0.0, 0), (2.0, 2)):
        changed = code.copy()
        changed[..., 1, :] *= factor
        np.testing.assert_allclose(drawn[:, 1, column], latents.decode(run, changed), atol=1e-5)
    assert np.abs(drawn[:, 1, 0] - drawn[:, 1, 1]).max() > 1e-3

    values = routing.in_use(code)
    longest = np.linalg.norm(code, axis=-1).argmax(axis=-1)
    assert values["longest"].sum() == pytest.approx(1)
    assert values["longest"][2] == pytest.approx((longest == 2).mean())
    worth, added = routing.absences(run, images[:2], code, shown=1)
    error = np.square(drawn[:, 2, :2] - images[:2, None]).mean(axis=(0, 2, 3, 4))
    assert worth[2] == pytest.approx(error[0] - error[1], rel=1e-3, abs=1e-7)
    np.testing.assert_allclose(added, drawn[:1, :, 1] - drawn[:1, :, 0], atol=1e-5)


def shown(folder, *names):
    """The pictures, none of which is blank."""
    assert {file.name for file in (folder / "pictures").iterdir()} >= set(names)
    for name in names:
        with Image.open(folder / "pictures" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5, name


@pytest.mark.parametrize("mode", ["agreement", "published"])
def test_the_command(mode, tmp_path, monkeypatch, capsys):
    given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(workdir=str(tmp_path)))
    monkeypatch.setattr(routing, "flags", given)
    monkeypatch.setattr(runs, "load", lambda _: untrained(small(mode)))
    routing.main([])
    found = json.loads((tmp_path / "routing.json").read_text())
    assert len(found["entropy"]) == 3
    assert found["entropy"][0] == pytest.approx(1)
    drawn = ["coupling.png", "capsule_scales.png", "capsule_draws.png"]
    if mode == "agreement":
        shown(tmp_path, *drawn, "capsule_maps.png")
        assert np.shape(list(found["capsules"].values())) == (3, 4)
    else:
        shown(tmp_path, *drawn)
        assert not (tmp_path / "pictures" / "capsule_maps.png").exists()
        assert "no index maps" in capsys.readouterr().out


def test_a_run_with_an_adversary(tmp_path, monkeypatch):
    config = small(adversary=True)
    random = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: jnp.asarray(random.normal(0, 0.5, x.shape), x.dtype), runs.abstract_state(config)
    )._replace(step=jnp.int32(3))
    runs.save_config(runs.open_workdir(str(tmp_path / "run")), config)
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(state, {})
    given = types.SimpleNamespace(FLAGS=types.SimpleNamespace(workdir=str(tmp_path / "run")))
    monkeypatch.setattr(routing, "flags", given)
    routing.main([])
    shown(tmp_path / "run", "patch_logits.png", "capsule_maps.png")
    found = json.loads((tmp_path / "run" / "routing.json").read_text())
    assert 0 <= found["told_right"]["real"] <= 1

    discriminate = runs.load_discriminator(str(tmp_path / "run"))
    x = latents.images(runs.load(str(tmp_path / "run")), limit=6)
    expected, _ = build_adversary(config.adversary).discriminator.apply(
        {"params": state.adversary.params, **state.adversary.collections},
        2 * x - 1,
        train=True,
        mutable=["batch_stats"],
    )
    logits = np.asarray(discriminate(x))
    assert logits.shape == (6, 2, 2)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_patches_lie_where_they_are_seen(tmp_path):
    seen = {}

    def side_by_side(cells, path, **_):
        seen["cells"] = cells

    images = np.zeros((1, 16, 16, 1))
    logits = np.array([[[2.0, -2.0], [0.0, 0.0]]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing_pictures.pictures, "side_by_side", side_by_side)
        routing_pictures.patch_logits([images] * 2, [logits] * 2, tmp_path / "x.png", stride=4)
    painted = seen["cells"][0, 1]
    assert painted.shape == (16, 16, 3)
    # Cells of 4 pixels in the middle; beyond them the edge's go on.
    red, blue = painted[5, 9], painted[5, 5]
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    np.testing.assert_array_equal(painted[0, 0], blue)
    np.testing.assert_array_equal(painted[0, 15], red)
    assert (painted[7, 5] == blue).all()
    assert not (painted[8, 5] == blue).all()


def test_other_runs_are_refused(tmp_path):
    config = vqvae_digits.get_config()
    run = runs.Run(runs.build_model(config), {}, config, 0)
    with pytest.raises(UserError, match="vqvae_digits routes no capsules; give it the folder"):
        routing.check_capsules(run)
    with pytest.raises(UserError, match="cvvae_digits has no index map: expected capsules that"):
        clusters.clusters_of(untrained(small("published")))


# ---------------------------------------------------------------- clusters against labels


def quantised():
    config = vqvae_digits.get_config()
    config.model.backbone = base.convnet(widths=(4,), last_width=None)
    config.model.backbone.residual_layers = 0
    config.model.bottleneck = ConfigDict({"name": "vq", "codes": 6, "depth": 2, "start": "uniform"})
    config.model.data_variance = 0.1
    config.data.limit = 40
    return untrained(config)


@pytest.fixture
def two_runs(run, tmp_path, monkeypatch):
    found = {"capsules": run, "vq": quantised()}
    monkeypatch.setattr(runs, "load", lambda workdir: found[str(workdir).rsplit("/", 1)[-1]])
    return [str(tmp_path / name) for name in found]


def cluster_command(monkeypatch, workdirs, *, images=None, limit=0):
    given = types.SimpleNamespace(workdir=workdirs, images=images, limit=limit)
    monkeypatch.setattr(clusters, "flags", types.SimpleNamespace(FLAGS=given))
    clusters.main([])
    return json.loads((runs.folder(workdirs[0]) / "clusters.json").read_text())


def test_clusters_of_two_runs(run, two_runs, images, tmp_path, monkeypatch, capsys):
    (tmp_path / "capsules").mkdir()
    found = cluster_command(monkeypatch, two_runs)["labels"]
    assert set(found) == {"class", "ink"}
    names = [
        "capsules: longest capsule (4)",
        "capsules: k-means of features (4)",
        "capsules: k-means of features (6)",
        "vq: code (6)",
        "vq: k-means of features (4)",
        "vq: k-means of features (6)",
        "k-means of pixels (4)",
        "k-means of pixels (6)",
    ]
    assert list(found["class"]) == names
    assert "against ink" in capsys.readouterr().out
    ink = images.reshape(40, 4, 2, 4, 2).mean(axis=(2, 4)) > 0.5
    index = np.linalg.norm(latents.encode(run, images), axis=-1).argmax(axis=-1)
    expected = clusters.agreement(index, ink.astype(int))
    assert found["ink"][names[0]] == pytest.approx(expected._asdict())
    # Means of the pixels know about ink what nobody has told them.
    assert found["ink"][names[-1]]["nmi"] > 0.2


def test_clusters_against_regions(run, tmp_path, write_annotated):
    # A dark and a bright half: pixels tell them, and k-means of them too. The last row is cut off.
    image = np.zeros((17, 24), np.uint8)
    image[:, 12:] = 255
    maps = [np.where(image > 0, 2, 1).astype(np.uint8), np.ones_like(image)]
    write_annotated(tmp_path / "data", "a", np.repeat(image[..., None], 3, -1), maps)
    config = small()
    config.model.image_shape = (8, 8, 3)
    coloured = untrained(config)
    found = clusters.of_photographs({"c": coloured}, str(tmp_path / "data"), stride=2)
    assert next(iter(found)) == "c: longest capsule (4)"
    pixels = found["k-means of pixels (4)"]
    # Two people, one of whom saw one region.
    assert pixels.purity == pytest.approx(1)
    assert 0.3 < pixels.nmi < 0.51
    assert pixels.purity_by_chance == pytest.approx((0.5 + 1) / 2, abs=0.1)


def test_runs_that_do_not_fit(two_runs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="a run is given twice"):
        clusters.load_runs([two_runs[1], two_runs[1]])
    config = small()
    config.model.backbone.widths = (4, 4)
    coarse = untrained(config)
    monkeypatch.setattr(runs, "load", lambda w: coarse if w.endswith("vq") else quantised())
    with pytest.raises(UserError, match="runs of different grids cannot be compared"):
        clusters.load_runs(two_runs)
    config = small()
    config.model.backbone = ConfigDict({"name": "mlp", "widths": (8,), "activation": "tanh"})
    config.model.image_shape = (8, 16, 1)
    with pytest.raises(UserError, match="expected a grid of positions"):
        clusters.stride_of(untrained(config))


def test_names_tell_runs_apart():
    assert runs.short_names(["a/vq", "b/fsq/"]) == ["vq", "fsq"]
    assert runs.short_names(["w/vq/seed0", "w/vae/seed0"]) == ["vq/seed0", "vae/seed0"]
    assert runs.short_names(["seed0", "w/seed0"]) == ["seed0", "w/seed0"]
    with pytest.raises(UserError, match="given twice"):
        runs.short_names(["w/a", "w/a/"])
