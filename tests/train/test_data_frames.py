"""Videos and episodes of TFDS as frames in order, from sets of the same form written here."""

import io
import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from train.data import InMemory, load_source, tfds_source
from train.data.windows import of_frames
from train.errors import UserError

DMLAB = "rlu_dmlab_rooms_watermaze"
LENGTHS = (5, 3, 4)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "PNG")
    return file.getvalue()


def record(features):
    """A `tf.train.Example`, features by name."""
    example = tf_example_pb2.Example()
    for key, values in features.items():
        lists = example.features.feature[key]
        kind = {bytes: lists.bytes_list, float: lists.float_list}.get(
            type(values[0]), lists.int64_list
        )
        kind.value.extend(values)
    return example.SerializeToString()


def write_set(folder, name, **splits):
    """A set as TFDS prepares it."""
    folder.mkdir(parents=True)
    info = {"name": name, "version": folder.name, "fileFormat": "array_record", "splits": []}
    for split, examples in splits.items():
        records = [record(features) for features in examples]
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for each in records:
            writer.write(each)
        writer.close()
        written = {
            "name": split,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "numBytes": str(sum(map(len, records))),
            "shardLengths": [str(len(records))],
        }
        info["splits"].append(written)
    (folder / "dataset_info.json").write_text(json.dumps(info))


def described_features():
    """The features of RL Unplugged's DeepMind Lab."""
    observation = {
        "pixels": tfds.features.Image(shape=(72, 96, 3), encoding_format="png"),
        "last_action": np.int64,
        "last_reward": np.float32,
    }
    steps = {
        "observation": observation,
        "action": np.int64,
        "reward": np.float32,
        "is_terminal": np.bool_,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "discount": np.float32,
    }
    return tfds.features.FeaturesDict(
        {
            "steps": tfds.features.Dataset(steps),
            "episode_id": np.int64,
            "episode_return": np.float32,
        }
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three episodes of DeepMind Lab, whose frames say which they are; two videos; digits."""
    folder = tmp_path_factory.mktemp("tfds")
    random = np.random.default_rng(0)
    episodes, actions = [], []
    for number, length in enumerate(LENGTHS):
        # Left half: the episode; right half: the step.
        frames = np.zeros((length, 72, 96, 3), np.uint8)
        frames[:, :, :48] = 50 * number + np.array([0, 1, 2])
        frames[:, :, 48:] = (40 * np.arange(length))[:, None, None, None]
        action = random.integers(15, size=length)
        actions.extend(action)
        ones = [1.0] * length
        episodes.append(
            {
                "steps/observation/pixels": [png(frame) for frame in frames],
                "steps/observation/last_action": [0, *action[:-1]],
                "steps/observation/last_reward": ones,
                "steps/action": list(action),
                "steps/reward": ones,
                "steps/discount": ones,
                "steps/is_first": [1] + [0] * (length - 1),
                "steps/is_last": [0] * (length - 1) + [1],
                "steps/is_terminal": [0] * length,
                "episode_id": [7 - number],
                "episode_return": [1.0],
            }
        )
    prepared = folder / DMLAB / "training_0" / "1.2.0"
    write_set(prepared, DMLAB, train=episodes)
    # TFDS's own builder of it imports TensorFlow; without that, it is read from what these say.
    described_features().save_config(prepared)
    default = folder / DMLAB / ".config" / "metadata.json"
    default.parent.mkdir()
    default.write_text(json.dumps({"default_config_name": "training_0"}))
    videos = random.integers(256, size=(2, 20, 64, 64, 1), dtype=np.uint8)
    examples = [{"image_sequence": [png(frame) for frame in video]} for video in videos]
    write_set(folder / "moving_mnist" / "1.0.0", "moving_mnist", test=examples)
    digits = random.integers(256, size=(2, 6, 28, 28), dtype=np.uint8)
    train, test = ([{"image": [png(digit)], "label": [3]} for digit in of] for of in digits)
    write_set(folder / "mnist" / "3.0.1", "mnist", train=train, test=test)
    return str(folder), np.array(actions), videos, digits


def config(data_dir, name=DMLAB, shape=(84, 84, 3), **changes):
    data = {"source": f"tfds:{name}", "image_shape": shape, "data_dir": data_dir[0]}
    return data | changes


def test_episodes_of_deepmind_lab_are_frames_in_order_with_actions(data_dir):
    before = "tensorflow" in sys.modules  # other tests may have brought it
    source = load_source(config(data_dir), "train")
    assert ("tensorflow" in sys.modules) == before
    assert len(source) == sum(LENGTHS)
    examples = [source[i] for i in range(len(source))]
    assert [(int(e["episode"]), int(e["frame"])) for e in examples] == [
        (episode, frame) for episode, length in enumerate(LENGTHS) for frame in range(length)
    ]
    np.testing.assert_array_equal([e["action"] for e in examples], data_dir[1])
    for example in examples:
        image = example["image"]
        assert (image.shape, image.dtype) == ((84, 84, 3), np.uint8)
        assert example["action"].dtype == example["episode"].dtype == np.int32
        # Scaled whole: the middle of 96 columns is that of 84; colours stay in their order.
        left, right = image[:, :40], image[:, 44:]
        assert (left == 50 * example["episode"] + np.array([0, 1, 2])).all()
        assert (right == 40 * example["frame"]).all()


def test_frames_of_their_own_size_are_as_stored(data_dir):
    source = load_source(config(data_dir, shape=(72, 96, 3), train="train[1:]"), "train")
    assert len(source) == sum(LENGTHS[1:])  # splits count episodes
    assert int(source[0]["image"][0, 0, 0]) == 50
    assert int(source[0]["episode"]) == 0
    limited = load_source(config(data_dir, limit=6), "train")
    assert len(limited) == 6  # and a limit frames
    assert [int(limited[i]["frame"]) for i in (4, 5)] == [4, 0]


def test_windows_of_their_codes_stay_in_an_episode(data_dir):
    source = load_source(config(data_dir), "train")
    examples = [source[i] for i in range(len(source))]
    arrays = {key: np.stack([e[key] for e in examples]) for key in ("action", "episode", "frame")}
    code = np.arange(len(source)).reshape(-1, 1, 1, 1)
    windows = of_frames(InMemory({"code": code, **arrays}), 4, "codes:W")
    assert [int(windows[i]["code"].item()) for i in range(len(windows))] == [3, 4, 11]
    np.testing.assert_array_equal(windows[2]["action"], data_dir[1][8:11])


def test_videos_of_moving_mnist(data_dir):
    before = "tensorflow" in sys.modules
    source = load_source(config(data_dir, "moving_mnist", (64, 64, 1)), "test")
    assert ("tensorflow" in sys.modules) == before  # TFDS's own builder would import it
    assert len(source) == 40
    found = np.stack([source[i]["image"] for i in range(40)])
    np.testing.assert_array_equal(found, data_dir[2].reshape(40, 64, 64, 1))
    last = source[39]
    assert sorted(last) == ["episode", "frame", "image"]
    assert (int(last["episode"]), int(last["frame"])) == (1, 19)
    small = load_source(config(data_dir, "moving_mnist", (32, 32, 1)), "test")
    assert small[0]["image"].shape == (32, 32, 1)


def test_moving_digits_are_those_of_mnist_and_the_published_ones(data_dir):
    shape = {"image_shape": (64, 64, 1), "data_dir": data_dir[0]}
    for number, split in enumerate(("train", "test")):
        source = load_source({"source": "moving:mnist/5", **shape}, split).source
        np.testing.assert_array_equal(source.digits, data_dir[3][number])
    published = {"source": "moving:mnist/5", "test": "published[20:]", **shape}
    source = load_source(published, "test")
    assert len(source) == 20
    np.testing.assert_array_equal(source[3]["image"], data_dir[2][1, 3])


def test_what_cannot_be_is_told(data_dir, monkeypatch):
    for changes, message in (
        ({"crop": "resize"}, "data.crop is 'resize', but frames are scaled whole"),
        ({"shape": (84, 84, 1)}, r"image of shape \(72, 96, 3\), but data.image_shape is \(84, 8"),
        ({"train": "test"}, r"'test' cannot be read .*; found train \(3 examples\)"),
    ):
        with pytest.raises(UserError, match=message):
            load_source(config(data_dir, **changes), "train")
    monkeypatch.setattr(tfds_source, "FRAMES_SIZE", 2500)
    with pytest.raises(UserError, match=r"'train' has 3 episodes, .* as in 'train\[:1\]'"):
        load_source(config(data_dir), "train")
    assert len(load_source(config(data_dir, train="train[:1]"), "train")) == LENGTHS[0]
