"""Runs of a second stage: their checks and promises, and what the command measures of one."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import base, priors
from train import latents, loop, parallel, report, runs, second_stage, steps
from train.checks import check
from train.encode import write_codes
from train.errors import UserError
from train.evaluate import check_evaluators


def second_config(source):
    """A second stage that trains in a moment, on the 4x4 codes of two codebooks of K=6."""
    config = base.get_config()
    config.name = "second"
    config.model.image_shape = (8, 8, 1)
    sizes = {"layers": 1, "features": 4, "kernel": 3, "output_features": 4, "embedding": 4}
    priors.set_second_stage(
        config, code_shape=(4, 4, 2), codes=6, widths=(4,), map_features=4, **sizes
    )
    config.model.backbone.residual_layers = 0
    config.model.bottleneck.update({"codes": 8, "depth": 2, "start": "data"})
    config.data.source = f"codes:{source}"
    config.optimizer.name = "sgd"  # Adam would divide by its own rounding
    config.optimizer.learning_rate = 0.1
    config.train.steps = 8
    config.train.batch_size = 32
    config.evaluation.every = 4
    config.log_every = 2
    config.checkpoint_every = 4
    return config


@pytest.fixture(scope="module")
def second_run(vq_run, tmp_path_factory):
    """The folder of such a run, trained for a moment."""
    workdir = tmp_path_factory.mktemp("second") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.report, "finish", lambda *_: None)
        loop.train_and_evaluate(second_config(vq_run), str(workdir))
    return workdir


def test_a_second_stage_trains_and_resumes_bit_for_bit(
    vq_run, second_run, here, tmp_path, assert_same_run
):
    values = json.loads((second_run / "evaluation.json").read_text())["values"]
    assert values["reconstruction"] == pytest.approx(
        32 * np.log(2) * values["bits_per_code"], rel=1e-5
    )
    assert values["uniform/bits_per_code"] == pytest.approx(np.log2(6), rel=1e-5)
    assert values["nominal_bits_per_image"] == 9
    expected = values["reconstruction"] + 9 * np.log(2)
    assert values["nll_uniform_prior"] == pytest.approx(expected, rel=1e-5)
    logged = [json.loads(line) for line in (second_run / "metrics.jsonl").read_text().splitlines()]
    assert {f"perplexity_{j}" for j in range(3)} <= logged[0].keys()

    class Killed(Exception):
        pass

    def killed(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_evaluation", killed)  # after the last step's checkpoint
        with pytest.raises(Killed):
            here(second_config(vq_run), tmp_path)
    for path in (tmp_path / "checkpoints").glob("8"):
        path.rename(tmp_path / "lost")
    here(second_config(vq_run), tmp_path)
    assert_same_run(tmp_path, second_run)


def test_evaluation_counts_every_grid_once(second_run):
    run, first = second_stage.load_stages(str(second_run))
    frames = second_stage.held_out(run, first)
    losses, output = run.model.apply(
        run.variables, {"code": frames.code}, train=False, method="losses"
    )
    values = run.evaluation["values"]
    for name, nats in losses.items():
        assert values[name] == pytest.approx(np.mean(np.asarray(nats, np.float64)), rel=1e-5)
    np.testing.assert_array_equal(frames.latent_code, output.code)
    uses = [np.bincount(column, minlength=8) for column in frames.latent_code.T]
    np.testing.assert_array_equal(run.evaluation["arrays"]["code_counts"], uses)


def test_four_devices_train_as_one(vq_run):
    config = second_config(vq_run)
    config.model.bottleneck.decay = 0.5
    code = np.random.default_rng(0).integers(6, size=(8, 4, 4, 2), dtype=np.int32)
    optimizer = steps.make_optimizer(config.optimizer, config.train.steps)
    names = list(runs.abstract_state(config).window.sums)
    create = runs.make_state(config, runs.build_model(config), optimizer, names)
    start = jax.jit(create)(jax.random.key(0), {"code": code})
    model = runs.build_model(config, axis_name=parallel.AXIS)
    step = runs.make_train_step(config, model, optimizer)

    def after(devices):
        mapped = jax.pmap(
            step,
            axis_name=parallel.AXIS,
            in_axes=(None, 0),
            out_axes=None,
            devices=jax.local_devices()[:devices],
        )
        state, window = mapped(start, {"code": code.reshape(devices, 1, -1, 4, 4, 2)})
        return (state.params, state.collections), window.last

    one, four = after(1), after(4)
    assert {f"perplexity_{j}" for j in range(3)} <= one[1].keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, four)


def test_what_the_command_measures_and_draws(second_run, monkeypatch, capsys):
    values = {"workdir": str(second_run), "samples": 1000, "temperature": 0.7}
    given = SimpleNamespace(FLAGS=SimpleNamespace(**values))
    monkeypatch.setattr(second_stage, "flags", given)
    second_stage.main([])
    found = json.loads((second_run / "second_stage.json").read_text())
    assert (found["step"], found["temperature"], found["frames"]) == (8, 0.7, 359)
    assert found["held_out"] == 359
    bits = found["bits_per_frame"]
    assert bits["nominal"] == 9
    assert bits["entropy"] == pytest.approx(sum(bits["entropy_of_codebooks"]))
    assert 0 <= bits["entropy"] <= 9
    nats = found["nats_per_code"]
    evaluated = json.loads((second_run / "evaluation.json").read_text())["values"]
    assert nats["own_latents"] == pytest.approx(evaluated["reconstruction"] / 32, rel=1e-5)
    assert set(nats) == {"own_latents", "latents_of_another_frame", "unigram_of_each_position"}
    assert set(found["psnr"]) == {"first stage", "drawn", "greedy", "another frame", "mean frame"}
    assert (second_run / "pictures" / "second_stage.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "second, step 8: " in printed
    assert "own latents" in printed

    run = runs.load(str(second_run))
    drawn = report.draw(second_run, run.config, run.variables, run.evaluation | {"step": 8})
    assert [path.name for path in drawn] == ["curves.png"]
    code = np.array([[0, 1, 2], [3, 4, 5], [3, 4, 5], [6, 7, 0], [1, 1, 1]])
    monkeypatch.setattr(second_stage, "BATCH", 4)
    whole = second_stage.drawn(run, code, temperature=1.0)
    assert whole.shape == (5, 4, 4, 2)
    # The same for the same place, however many there are.
    np.testing.assert_array_equal(second_stage.drawn(run, code[:2], temperature=1.0), whole[:2])


def test_tables_of_each_position():
    train = np.array([[0, 1], [0, 2], [1, 2]])[..., None]
    found = second_stage.unigram_nats_per_code(
        train, np.array([[0, 0], [2, 2]])[..., None], codes=3
    )
    p = np.array([[2.5, 0.5], [0.5, 2.5]]) / 4.5
    np.testing.assert_allclose(found, -np.log(p).mean(axis=1))


def test_psnr():
    image = np.full((2, 3), 0.1)
    assert second_stage.psnr(image, np.zeros((2, 3))) == pytest.approx(20)


def test_a_run_that_is_none_is_refused_in_one_line(vq_run, second_run, here, tmp_path):
    with pytest.raises(UserError, match="no second stage over the codes of another run") as raised:
        second_stage.load_stages(vq_run)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="holds a second stage, which encodes no data"):
        write_codes(str(second_run))
    with pytest.raises(UserError, match="a second stage of codes and has no images"):
        latents.images(runs.load(str(second_run)))
    config = second_config(vq_run)
    config.model.second_stage.codes = 3
    with pytest.raises(UserError, match=r"to 5, but model.second_stage.codes is 3"):
        here(config, tmp_path / "run")


def test_configs_that_cannot_be_are_refused():
    def checked(config):
        check(config)
        check_evaluators(config, runs.abstract_state(config))

    def refused(message, **fields):
        config = second_config("W")
        with config.unlocked():
            for name, value in fields.items():
                config.update_from_flattened_dict({name.replace("__", "."): value})
        with pytest.raises(UserError, match=message):
            checked(config)

    refused("a prior or a second stage is trained on codes", data__source="digits")
    refused("no data.frames, perceptual term or adversary", data__frames=3)
    refused("no data.frames, perceptual term or adversary", adversary__loss="hinge")
    refused("model.prior and model.second_stage are set", model__prior=ConfigDict({"name": "x"}))
    refused("model.backbone is {}; it must be a dict", model__backbone=ConfigDict())
    refused("evaluator 'image' .* a second stage has none", evaluation__evaluators=("image",))
    refused("has no option 'feature'; did you mean 'features'", model__second_stage__feature=3)
