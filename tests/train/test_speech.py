"""A run of speech from end to end: trained, measured, converted, and a prior of its codes."""

import json
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

import train
from configs import base
from train import convert_speaker, runs, sample, speech, voices
from train.checks import check
from train.data import audio
from train.encode import encode_split
from train.errors import UserError
from train.evaluate import check_evaluators

soundfile = pytest.importorskip("soundfile", reason="pip install 'bottlenecks[audio]'")
RATE = 8000


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Two speakers who whistle and hiss two digits."""
    folder, rng = tmp_path_factory.mktemp("digits"), np.random.default_rng(0)
    for speaker, pitch in (("ann", 400), ("bob", 150)):
        for digit in range(2):
            for take in (*range(2), *range(5, 11)):
                t = np.arange(rng.integers(700, 1000)) / RATE
                hiss = np.convolve(rng.normal(size=len(t)) / 3, np.ones(pitch // 100) / 2, "same")
                x = np.sin(2 * np.pi * pitch * t) if digit else hiss
                soundfile.write(folder / f"{digit}_{speaker}_{take}.wav", 0.3 * x, RATE)
    return folder


def tiny(place):
    config = base.get_config()
    config.name = "tiny_speech"
    base.set_speech(config, samples=512, sample_rate=RATE, speakers=2, codes=8, widths=(8,) * 4)
    config.model.backbone.residual_layers = 0
    config.model.bottleneck.start = "data"
    config.model.speech.update({"layers": 2, "cycles": 1, "features": 8, "skip_features": 16})
    config.data.source = f"audio:{place}"
    config.train.steps = 4
    config.train.batch_size = 8
    config.evaluation.batch_size = 8
    config.log_every = 2
    config.checkpoint_every = 4
    return config


@pytest.fixture(scope="module")
def workdir(digits, tmp_path_factory):
    from train.loop import train_and_evaluate

    path = tmp_path_factory.mktemp("run")
    train_and_evaluate(tiny(digits), str(path))
    return path


def test_a_run_of_speech_learns_and_is_evaluated(workdir):
    values = json.loads((workdir / "evaluation.json").read_text())["values"]
    assert 0 < values["bits_per_sample"] < 12
    assert values["bits_per_dim"] == pytest.approx(values["bits_per_sample"])
    assert values["used_codes"] >= 1
    assert (workdir / "pictures" / "curves.png").exists()
    assert set(train.load(str(workdir)).variables) == {"params", "codebook", "batch_stats"}


def test_what_speech_measures(workdir, digits):
    run = train.load(str(workdir))
    found, shown = speech.measure(run, seconds=0.1)
    assert set(found) == {"bits_per_sample", "spectral_distance_db", "heard", "codes_to"}
    bits = found["bits_per_sample"]
    assert set(bits) == {"own codes", "codes of another recording", "another speaker"}
    heard = found["heard"]
    assert heard["speaker"]["real"] == heard["label"]["real"] == 1  # whistles and hisses
    assert heard["target speaker"]["real"] == 0
    assert heard["label"]["chance"] == 0.5
    assert set(heard["label"]) == {"real", "reconstructed", "converted", "chance"}
    distance = found["spectral_distance_db"]
    assert "3 bits for 16 samples, 1 a sample" in distance
    assert distance["silence"] > 0
    for name in ("speaker", "label"):
        assert set(found["codes_to"][name]) == {"1-grams", "2-grams", "3-grams"}
    assert all(np.abs(x).max() <= 1 for x in shown.values())


def test_codes_are_the_same_alone_and_in_a_batch(workdir):
    run = train.load(str(workdir))
    source = audio.load(run.config.data.source.partition(":")[2], RATE)["test"]
    recordings = [source[i]["audio"] for i in range(3)]
    together = voices.encode(run, recordings)
    assert [len(code) for code in together] == [-(-len(x) // 16) for x in recordings]
    alone = voices.encode(run, recordings[:1])[0]
    # Zeros follow the last stretch in a batch, and the convolution's own do alone.
    np.testing.assert_array_equal(alone[:-8], together[0][: len(alone) - 8])


def test_a_recording_is_converted(workdir, digits, tmp_path):
    run = train.load(str(workdir))
    high = tmp_path / "x.flac"
    soundfile.write(high, np.stack([np.zeros(3000)] * 2, axis=1) + 0.01, 2 * RATE)
    output = tmp_path / "y.wav"
    picture = convert_speaker.convert(run, high, output, speaker="bob", temperature=1.0)
    said, rate = soundfile.read(output)
    assert (said.shape, rate) == ((1500,), RATE)
    assert picture.exists()
    with pytest.raises(UserError, match="speaker 'eve': the run knows ann, bob, or their numbers"):
        convert_speaker.convert(run, high, output, speaker="eve", temperature=1.0)
    with pytest.raises(UserError, match="--temperature is 0; it must be finite and above 0"):
        convert_speaker.convert(run, high, output, speaker="1", temperature=0)


def test_a_prior_of_the_codes_speaks(workdir, tmp_path, monkeypatch, capsys):
    from train import speak
    from train.loop import train_and_evaluate

    coded = encode_split(train.load(str(workdir)), "test")
    assert coded["code"].shape == (8, 32, 1)
    config = base.get_config()
    config.name = "tiny_prior"
    config.model.code_shape = (32, 1)
    config.model.prior = ConfigDict(
        {"name": "wavenet", "codes": 8, "classes": 2, "layers": 1, "features": 8}
    )
    config.loss_weights = ConfigDict({"nats": 1.0})
    config.data.source = f"codes:{workdir}"
    config.train.steps = 2
    config.train.batch_size = 8
    config.evaluation.evaluators = ("losses",)
    config.evaluation.batch_size = 8
    config.log_every = 1
    train_and_evaluate(config, str(tmp_path))
    assert sample.of_speech(runs.read_config(str(tmp_path)))
    values = {"workdir": str(tmp_path), "speaker": "ann", "labels": "1", "samples": 2}
    fake = type("Flags", (), values | {"temperature": 1.0, "seed": 0})()
    monkeypatch.setattr(flags, "FLAGS", fake)
    speak.main(sys.argv[:1])
    assert "speech.png" in capsys.readouterr().out
    said, _ = soundfile.read(tmp_path / "speech" / "1_1.wav")
    assert said.shape == (512,)


def checked(config):
    check(config)
    check_evaluators(config, runs.abstract_state(config))


def test_configs_that_cannot_be_are_refused(digits):
    def refused(message, **fields):
        config = tiny(digits)
        for name, value in fields.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
        with pytest.raises(UserError, match=message):
            checked(config)

    refused("recordings need all four", data__samples=0)
    refused("recordings need all four", data__sample_rate=0)
    refused("recordings need all four", data__source="digits")
    refused(r"\[batch, samples, 1\], the samples a multiple of 16", data__samples=500)
    refused("'image' measures images, and speech has none", evaluation__evaluators=("image",))
    refused("no perceptual term or adversary", adversary__loss="hinge")
