"""Runs that train a prior over codes: their checks, their figures, and the loop's promises."""

import json
import math

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base, priors
from train import loop, runs
from train.checks import check
from train.data import InMemory, load_source, make_transform
from train.data.statistics import code_statistics
from train.errors import UserError
from train.evaluate import check_evaluators
from train.metrics.codes import independent_codes


@pytest.fixture
def pixels():
    """A PixelCNN over the digits' pixels that trains in a moment."""
    config = base.get_config()
    config.name = "pixels"
    config.model.image_shape = (8, 8, 1)
    priors.set_pixelcnn(
        config, code_shape=(8, 8, 1), codes=17, classes=10, layers=1, features=4, kernel=3
    )
    config.model.prior.output_features = 8
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.data.levels = 17
    config.optimizer.learning_rate = 1e-2
    config.train.steps = 8
    config.train.batch_size = 32
    config.evaluation.every = 4
    config.log_every = 2
    config.checkpoint_every = 4
    return config


def test_a_prior_trains_resumes_bit_for_bit_and_is_told_beside_independent_codes(
    pixels, here, tmp_path, assert_same_run
):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    here(pixels.copy_and_resolve_references(), straight)
    values = json.loads((straight / "evaluation.json").read_text())["values"]
    assert values["uniform/bits_per_code"] == pytest.approx(math.log2(17), rel=1e-5)
    assert values["unigram/bits_per_code"] < values["uniform/bits_per_code"]
    assert values["nats"] == pytest.approx(64 * math.log(2) * values["bits_per_code"], rel=1e-5)

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_evaluation", killed)  # after the last step's checkpoint
        with pytest.raises(Killed):
            here(pixels.copy_and_resolve_references(), stopped)
    for path in (stopped / "checkpoints").glob("8"):
        path.rename(stopped / "lost")
    here(pixels.copy_and_resolve_references(), stopped)
    assert_same_run(stopped, straight)


def test_its_figures_are_the_models_own(pixels):
    state = runs.abstract_state(pixels)
    check_evaluators(pixels, state)
    model = runs.build_model(pixels)
    random = np.random.default_rng(0)
    batch = {
        "code": random.integers(0, 17, (3, 8, 8, 1), np.int32),
        "label": np.arange(3, dtype=np.int32),
    }
    variables = model.init(jax.random.key(0), batch, train=False)
    losses, output = model.apply(variables, batch, train=False, method="losses")
    log_p = model.apply(variables, method=lambda m: m.net.log_prob(batch["code"], batch["label"]))
    np.testing.assert_allclose(losses["nats"], -log_p, rtol=1e-6)
    np.testing.assert_allclose(output.metrics["bits_per_code"], -log_p / 64 / math.log(2), 1e-6)


def test_independent_codes():
    counts = np.array([[3, 0, 1], [0, 0, 4]])
    code = np.array([[[0, 2], [2, 2]], [[1, 0], [0, 0]]])  # 2 examples, 2 positions, 2 codebooks
    batch = {"code": code, "mask": np.array([1.0, 0.0], np.float32)}
    table = (counts + 0.5) / (4 + 1.5)
    wanted = -np.log2(table[0, 0] * table[1, 2] * table[0, 2] * table[1, 2])
    for name, bits in (("uniform", 4 * math.log2(3)), ("unigram", wanted)):
        evaluator = independent_codes(counts)[name]
        found = evaluator.summary(evaluator.sums(None, None, batch, None))
        assert found["bits_per_code"] == pytest.approx(bits / 4, rel=1e-6)
        assert found["nats"] == pytest.approx(bits * math.log(2), rel=1e-6)


def test_pixels_are_codes(pixels):
    source, transform = load_source(pixels.data, "train"), make_transform(pixels.data, "train")
    example = transform(source[5], np.random.default_rng(0))
    assert sorted(example) == ["code", "label"]
    assert example["code"].dtype == np.int32
    np.testing.assert_array_equal(example["code"] / 16, source[5]["image"])
    counts = code_statistics(source, transform, shape=(8, 8, 1), codes=17, classes=10)
    assert counts.shape == (1, 17)
    assert counts.sum() == 64 * len(source)


def test_codes_that_do_not_fit_are_refused():
    code = np.zeros((4, 2, 2, 1), np.int32)
    code[0, 0, 0, 0] = 5
    source = InMemory({"code": code})
    for options, message in (
        ({"shape": (2, 3, 1), "codes": 6}, r"codes are \(2, 2, 1\), model.code_shape is \(2, 3"),
        ({"shape": (2, 2, 1), "codes": 5}, r"go from 0 to 5, but model.prior.codes is 5"),
        ({"shape": (2, 2, 1), "codes": 6, "classes": 3}, r"have no labels; set it to 0"),
    ):
        with pytest.raises(UserError, match=message):
            code_statistics(source, None, **options)
    labelled = InMemory({"code": code, "label": np.arange(4)})
    with pytest.raises(UserError, match=r"labels go from 0 to 3, but model.prior.classes is 3"):
        code_statistics(labelled, None, shape=(2, 2, 1), codes=6, classes=3)


def checked(config):
    check(config)
    check_evaluators(config, runs.abstract_state(config))


def test_configs_that_cannot_be_are_refused(pixels):
    def refused(message, **fields):
        config = pixels.copy_and_resolve_references()
        with config.unlocked():
            for name, value in fields.items():
                config.update_from_flattened_dict({name.replace("__", "."): value})
        with pytest.raises(UserError, match=message):
            checked(config)

    refused("a prior or a second stage is trained on codes", data__levels=0)
    refused("data.levels is 1; a pixel has 2 values", data__levels=1)
    refused("no backbone", model__backbone=ConfigDict({"name": "mlp"}))
    refused("no prior|prior.name is 'nothing'; known: pixelcnn", model__prior__name="nothing")
    refused("no option 'feature'; did you mean 'features'", model__prior__feature=3)
    refused("the codes' grid and their codebooks", model__code_shape=(8,))
    refused("model.code_shape is ()", model__code_shape=())
    refused("kernel is 4; it must be odd", model__prior__kernel=4)
    refused("remat", model__remat=True)
    refused("evaluator 'image' measures images", evaluation__evaluators=("image",))
