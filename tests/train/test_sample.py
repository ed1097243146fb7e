"""Draws from a prior: reproducible, decoded by the right run, mistakes told in a line."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import train
from train import bits, latents, report, runs, sample
from train.data import load_source
from train.errors import UserError


def test_draws_do_not_depend_on_what_else_is_drawn(prior_run):
    prior = train.load(prior_run)
    both = sample.draw_samples(prior, [3, 7], 4, seed=1)
    seven = sample.draw_samples(prior, [7], 4, seed=1)
    assert both["code"].shape == (8, 4, 4, 2)
    assert both["image"].shape == (8, 8, 8, 1)
    np.testing.assert_array_equal(both["label"], [3] * 4 + [7] * 4)
    np.testing.assert_array_equal(both["code"][4:], seven["code"])
    assert (seven["code"] != sample.draw_samples(prior, [7], 4, seed=2)["code"]).any()
    assert both["code"].min() >= 0
    assert both["code"].max() < 6


def test_they_are_decoded_by_the_run_of_the_codes(prior_run, vq_run):
    prior = train.load(prior_run)
    code = load_source(prior.config.data, "test")[np.arange(5)]["code"]
    decoded = sample.make_decoder(prior)(code)
    np.testing.assert_array_equal(decoded, latents.decode(train.load(vq_run), code))
    prior.config.data.encoder_checksum = 1
    with pytest.raises(UserError, match="codes of another checkpoint"):
        sample.make_decoder(prior)


def test_cold_draws_are_the_likeliest_codes(prior_run):
    prior = train.load(prior_run)
    code = sample.draw_codes(prior, 3, label=2, temperature=1e-6)
    assert (code == code[:1]).all()
    variables = {"params": prior.variables["params"]["net"]}
    logits = prior.model.net.apply(variables, code[:1], np.array([2], np.int32))
    np.testing.assert_array_equal(np.argmax(logits[0], axis=-1), code[0])


@pytest.fixture
def command(monkeypatch, prior_run):
    """Runs `train.sample` with options."""

    def run(**options):
        defaults = {"workdir": prior_run, "labels": "3,7", "temperature": 1.0}
        defaults.update({"samples": 2, "seed": 0, **options})

        given = SimpleNamespace(FLAGS=SimpleNamespace(**defaults))
        monkeypatch.setattr(sample, "flags", given)
        sample.main([])

    return run


def test_the_command_writes_a_picture_for_each_class(command, prior_run, capsys):
    command()
    with np.load(f"{prior_run}/samples.npz") as archive:
        assert sorted(archive) == ["code", "image", "label"]
        assert archive["image"].shape == (4, 8, 8, 1)
    written = capsys.readouterr().out.split()
    assert [name.rsplit("/")[-1] for name in written] == [
        "samples.npz",
        "samples_3.png",
        "samples_7.png",
    ]
    for name in written:
        assert runs.folder(name).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "3,x"}, r"--labels is '3,x'; 'x' must be a whole number in 0 .. 9"),
        ({"labels": "10"}, r"'10' must be a whole number in 0 .. 9"),
        ({"labels": "-1"}, r"'-1' must be a whole number in 0 .. 9"),
        ({"temperature": 0.0}, "--temperature is 0; it must be finite and above 0"),
        ({"temperature": math.nan}, "--temperature is nan"),
        ({"samples": 0}, "--samples is 0"),
        ({"seed": -1}, "--seed is -1; it must be 0 or more"),
    ],
)
def test_mistakes(command, options, message):
    with pytest.raises(UserError, match=message):
        command(**options)


def test_other_runs_hold_no_prior(command, vq_run):
    with pytest.raises(UserError, match="holds no prior"):
        command(workdir=vq_run)


def test_a_prior_has_no_images(prior_run):
    with pytest.raises(UserError, match="prior is a prior over codes and has no images"):
        latents.images(train.load(prior_run))


def test_the_report_shows_draws_of_each_class(prior_run, tmp_path):
    run = train.load(prior_run)
    path = runs.folder(prior_run)
    evaluation = json.loads((path / "evaluation.json").read_text())
    drawn = report.draw(path, run.config, run.variables, evaluation)
    assert [file.name for file in drawn] == ["samples.png", "curves.png"]
    text = report.table(evaluation["values"]).splitlines()
    assert text[0].split() == ["model", "uniform", "unigram"]
    assert text[1].split()[0] == "bits_per_code"


def test_bits_of_the_whole_model(prior_run, vq_run, monkeypatch, capsys):
    nats = bits.nats_of_parts(prior_run)
    values = json.loads((runs.folder(vq_run) / "evaluation.json").read_text())["values"]
    assert nats["reconstruction"] == pytest.approx(values["reconstruction"], rel=1e-5)
    assert nats["uniform"] == pytest.approx(32 * math.log(6), rel=1e-5)
    # The bound that the VQ-VAE's own evaluation gives with a uniform prior.
    whole = nats["reconstruction"] + nats["uniform"]
    assert whole == pytest.approx(values["nll_uniform_prior"], rel=1e-5)
    assert nats["unigram"] < nats["uniform"]
    given = SimpleNamespace(FLAGS=SimpleNamespace(workdir=prior_run))
    monkeypatch.setattr(bits, "flags", given)
    bits.main([])
    out = capsys.readouterr().out
    assert "is a density over [0, 1] units (gaussian)" in out
    content = json.loads((runs.folder(prior_run) / "bits.json").read_text())
    found = content["bits_per_dim"]["-log p(x | z) p(z), uniform"]
    assert found == pytest.approx(whole / 64 / math.log(2), rel=1e-4)
    with pytest.raises(UserError, match="no prior over the codes of another run"):
        bits.nats_of_parts(vq_run)
