"""Recordings: what a folder or a list says of them, reading, resampling, crops, and refusals."""

import numpy as np
import pytest

from train.data import Batches, load_source, make_transform, tfds_source
from train.data import audio as recordings
from train.errors import UserError

soundfile = pytest.importorskip("soundfile", reason="pip install 'bottlenecks[audio]'")
RATE = 8000


def tone(samples, rate=RATE, hertz=440):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)


def save(path, samples=800, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(samples, rate), rate, **options)


def config(place, **changes):
    shape = {"image_shape": (32, 32, 3)}
    return shape | {"source": f"audio:{place}", "sample_rate": RATE, "samples": 512} | changes


def error_of(data, split="train"):
    with pytest.raises(UserError) as caught:
        load_source(data, split)[0]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_of_spoken_digits_say_digit_speaker_and_split(tmp_path):
    for name in ("3_theo_0", "3_theo_4", "7_theo_5", "0_george_12", "7_jackson_49"):
        save(tmp_path / "recordings" / f"{name}.wav")
    train, test = (load_source(config(tmp_path), split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2)
    found = recordings.listing(str(tmp_path))
    assert found.speakers == ["george", "jackson", "theo"]
    assert found.labels == ["0", "3", "7"]
    first = train[0]  # in sorted order: george's zero
    assert (first["speaker"], first["label"]) == (0, 0)
    assert first["audio"].dtype == np.int16
    np.testing.assert_allclose(first["audio"] / 32768, tone(800), atol=1 / 32768)
    assert [int(test[i]["label"]) for i in range(2)] == [1, 1]


def test_a_list_in_a_csv_file(tmp_path):
    save(tmp_path / "a" / "x.flac")
    save(tmp_path / "b" / "y.wav")
    lines = "path,speaker,split,digit\na/x.flac,ann,train,one\nb/y.wav,bob,test,two\n"
    (tmp_path / "manifest.csv").write_text(lines)
    for place in (tmp_path, tmp_path / "manifest.csv"):
        test = load_source(config(place), "test")
        assert len(test) == 1
        assert (test[0]["speaker"], test[0]["label"]) == (1, 1)
    (tmp_path / "manifest.csv").write_text(lines.replace("test", "dev"))
    assert "split 'dev'; expected 'train' or 'test'" in error_of(config(tmp_path))
    (tmp_path / "manifest.csv").write_text("file\na\n")
    assert "its columns are ['file']; expected 'path'" in error_of(config(tmp_path))


def test_folders_of_speakers_and_a_holdout(tmp_path):
    for i in range(10):
        save(tmp_path / f"p{i % 2}" / "chapter" / f"{i}.flac")
    data = config(tmp_path, holdout=0.3)
    train, test = (load_source(data, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (7, 3)
    assert sorted({int(train[i]["speaker"]) for i in range(7)}) == [0, 1]
    assert "label" not in train[0]
    assert recordings.listing(str(tmp_path)).speakers == ["p0", "p1"]


def test_other_rates_and_channels(tmp_path):
    both = np.stack([tone(1600, 16000), np.zeros(1600)], axis=1)
    soundfile.write(tmp_path / "x.wav", both, 16000)
    found = load_source(config(tmp_path), "train")[0]["audio"] / 32768
    assert len(found) == 800
    inside = slice(50, -50)  # the filter's ends
    np.testing.assert_allclose(found[inside], 0.5 * tone(800)[inside], atol=2e-3)


def test_crops_and_filling(tmp_path):
    save(tmp_path / "1_ann_9.wav", samples=700)
    save(tmp_path / "1_bob_9.wav", samples=100)
    save(tmp_path / "1_bob_0.wav", samples=700)
    data = config(tmp_path)
    transform = make_transform(data, "train")
    source = load_source(data, "train")
    batches = Batches(source, batch_size=8, seed=0, transform=transform)
    batch = batches[3]
    assert batch["audio"].shape == (8, 512)
    assert batch["audio"].dtype == np.int16
    again = Batches(source, batch_size=8, seed=0, transform=transform)[3]
    np.testing.assert_array_equal(batch["audio"], again["audio"])
    whole = source[0]["audio"]
    windows = np.lib.stride_tricks.sliding_window_view(whole, 512)
    for row, speaker in zip(batch["audio"], batch["speaker"], strict=True):
        if speaker == 0:
            assert np.any(np.all(windows == row, axis=1))
        else:  # all of it, somewhere between zeros
            assert np.sum(np.abs(row.astype(int))) == np.sum(np.abs(source[1]["audio"].astype(int)))
    test = load_source(data, "test")
    middle = make_transform(data, "test")(test[0], np.random.default_rng(0))["audio"]
    np.testing.assert_array_equal(middle, test[0]["audio"][94:606])


def test_spoken_digit_of_tfds(monkeypatch):
    waveforms = [np.full(10 + i, i, np.int16) for i in range(3)]
    names = ["1_theo_7.wav", "0_ann_2.wav", "1_ann_8.wav"]
    found = waveforms, names, RATE
    monkeypatch.setattr(tfds_source, "waveforms", lambda name, data_dir: found)
    train = load_source(config("tfds:spoken_digit"), "train")
    assert [(int(e["speaker"]), int(e["label"])) for e in (train[0], train[1])] == [(1, 1), (0, 1)]
    np.testing.assert_array_equal(train[1]["audio"], waveforms[2])
    assert len(load_source(config("tfds:spoken_digit"), "test")) == 1


def test_what_cannot_be_read(tmp_path):
    assert "no such folder" in error_of(config(tmp_path / "nowhere"))
    assert "no file in it that ends in .wav or .flac" in error_of(config(tmp_path))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    assert "a.wav: not a readable recording" in error_of(config(tmp_path))
    save(tmp_path / "a.wav", samples=0)
    assert "nothing is recorded in it" in error_of(config(tmp_path))


def test_more_speakers_than_the_model_has(tmp_path):
    for name in "abc":
        save(tmp_path / name / "x.wav")
    source = load_source(config(tmp_path, train="train[:2]"), "train")
    recordings.check_speakers(source, 3)
    with pytest.raises(UserError, match=r"3 speakers, model\.speech\.classes is 2; set"):
        recordings.check_speakers(source, 2)
