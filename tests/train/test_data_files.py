"""Image folders and array files written here, good and bad."""

import numpy as np
import pytest
from PIL import Image

from train.data import Batches, data_statistics, load_source, make_transform
from train.errors import UserError


def config(source, **changes):
    data = {"source": source, "image_shape": (8, 8, 3), "crop": "none", "holdout": 0.0}
    return data | changes


def error_of(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def read(path, **changes):
    """The only image of a folder."""
    source = load_source(config(f"folder:{path}", **changes), "train")
    assert len(source) == 1
    return source[0]["image"]


def test_folders_are_read_in_order_with_labels(tmp_path):
    pictures = {}
    for i, name in enumerate(["cats/b.png", "cats/deep/a.bmp", "dogs/c.PNG", "ants/z.webp"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pictures[name] = noise(8, 8, 3, seed=i)
        Image.fromarray(pictures[name]).save(tmp_path / name, lossless=True)
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    (tmp_path / "cats" / "._b.png").write_bytes(b"what macOS leaves behind")
    source = load_source(config(f"folder:{tmp_path}"), "train")
    assert len(source) == 4
    expected = ["ants/z.webp", "cats/b.png", "cats/deep/a.bmp", "dogs/c.PNG"]
    for i, name in enumerate(expected):
        np.testing.assert_array_equal(source[i]["image"], pictures[name])
    assert [int(source[i]["label"]) for i in range(4)] == [0, 1, 1, 2]
    np.testing.assert_array_equal(source[1]["image"], source[1]["image"])  # read, then kept


def test_train_and_test_folders_are_splits(tmp_path):
    for i, name in enumerate(["train/x/0.png", "train/y/1.png", "train/y/2.png", "test/x/3.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(8, 8, 3, seed=i)).save(tmp_path / name)
    data = config(f"folder:{tmp_path}")
    assert "sub-folders" in error_of(load_source, data, "train")  # the test part has no y
    (tmp_path / "test" / "y").mkdir()
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "test" / "y" / "4.png")
    train, test = (load_source(data, split) for split in ("train", "test"))
    assert [int(train[i]["label"]) for i in range(3)] == [0, 1, 1]
    assert [int(test[i]["label"]) for i in range(2)] == [0, 1]


def test_a_holdout_splits_a_folder(tmp_path):
    for i in range(10):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    data = config(f"folder:{tmp_path}", holdout=0.3)
    parts = [load_source(data, split) for split in ("train", "test")]
    seen = [[int(part[i]["image"][0, 0, 0]) for i in range(len(part))] for part in parts]
    assert (len(seen[0]), len(seen[1])) == (7, 3)
    assert sorted(seen[0] + seen[1]) == list(range(10))
    assert "label" not in parts[0][0]


def test_grey_palette_transparent_cmyk_and_binary_files(tmp_path):
    grey = noise(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path), np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(read(tmp_path, image_shape=(8, 8, 1)), grey[..., None])

    palette = Image.fromarray(noise(8, 8, 3)).quantize(16)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path), np.asarray(palette.convert("RGB")))
    palette.save(tmp_path / "a.png", transparency=bytes([0] * 16))
    assert (read(tmp_path) == 255).all()  # transparent is white

    colours = noise(8, 8, 4)
    colours[..., 3] = 255
    colours[:4, :, 3] = 0
    Image.fromarray(colours).save(tmp_path / "a.png")
    image = read(tmp_path)
    assert (image[:4] == 255).all()
    np.testing.assert_array_equal(image[4:], colours[4:, :, :3])
    np.testing.assert_array_equal(read(tmp_path, image_shape=(8, 8, 4)), colours)

    Image.fromarray(noise(8, 8, 2)).save(tmp_path / "a.png")  # grey and alpha
    assert read(tmp_path).shape == (8, 8, 3)
    Image.fromarray(grey > 127).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path)[..., 0], (grey > 127) * np.uint8(255))
    (tmp_path / "a.png").unlink()
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert (read(tmp_path) == 255).all()


def test_sixteen_bits_keep_their_scale(tmp_path):
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    image = read(tmp_path, image_shape=(8, 8, 1))[..., 0]
    np.testing.assert_array_equal(image, np.round(levels / 257).astype(np.uint8))


def test_rotation_by_exif_is_undone(tmp_path):
    pixels = noise(8, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise when shown
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = read(tmp_path, image_shape=(4, 8, 3))
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))


def test_folder_mistakes_are_told_in_one_line(tmp_path):
    missing = config(f"folder:{tmp_path / 'nowhere'}")
    assert "no such folder" in error_of(load_source, missing, "train")
    data = config(f"folder:{tmp_path}")
    assert "no image file" in error_of(load_source, data, "train")
    two = data | {"image_shape": (8, 8, 2)}
    assert "1, 3 or 4 channels" in error_of(load_source, two, "train")

    Image.fromarray(noise(10, 12, 3)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    source = load_source(data, "train")
    message = error_of(source.__getitem__, 0)
    assert all(part in message for part in ["good.png", "(10, 12, 3)", "(8, 8, 3)", "'resize'"])
    crop = data | {"image_shape": (16, 16, 3), "crop": "random"}
    message = error_of(load_source(crop, "train").__getitem__, 0)
    assert all(part in message for part in ["good.png", "10 x 12", "16 x 16", "'resize'"])

    for damaged in (whole[: len(whole) // 2], b"no image at all", b""):
        (tmp_path / "good.png").write_bytes(damaged)
        message = error_of(load_source(data, "train").__getitem__, 0)
        assert "good.png" in message
        assert "not a readable image" in message
    (tmp_path / "good.png").unlink()
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "f.tiff")
    assert "f.tiff" in error_of(load_source(data, "train").__getitem__, 0)


def test_images_of_any_size_become_one_shape(tmp_path):
    for i, size in enumerate([(20, 9, 3), (9, 20, 3), (64, 64, 3), (3, 5, 3)]):
        Image.fromarray(noise(*size, seed=i)).save(tmp_path / f"{i}.png")
    data = config(f"folder:{tmp_path}", crop="resize", image_shape=(12, 8, 3), flip=True)
    source = load_source(data, "train")
    batch = Batches(source, batch_size=4, seed=0, transform=make_transform(data, "train"))[0]
    assert batch["image"].shape == (4, 12, 8, 3)
    statistics = data_statistics(source, make_transform(data, "train"))
    assert statistics.mean_image.shape == (12, 8, 3)


# Array files


def test_arrays_of_bytes_are_mapped(tmp_path):
    images = noise(6, 8, 8, 3)
    np.save(tmp_path / "a.npy", images)
    source = load_source(config(f"array:{tmp_path / 'a.npy'}"), "train")
    assert isinstance(source.arrays["image"], np.memmap)
    batch = source[np.array([5, 0])]
    np.testing.assert_array_equal(batch["image"], images[[5, 0]])
    assert type(batch["image"]) is np.ndarray


@pytest.mark.parametrize("key", ["image", "images", "imgs"])
def test_zipped_arrays_bring_labels(tmp_path, key):
    images, labels = noise(6, 8, 8), np.arange(6)
    np.savez(tmp_path / "a.npz", **{key: images, "labels": labels})
    data = config(f"array:{tmp_path / 'a.npz'}", image_shape=(8, 8, 1))
    example = load_source(data, "train")[4]
    np.testing.assert_array_equal(example["image"], images[4][..., None])
    assert example["label"] == 4
    assert example["label"].dtype == np.int32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_arrays_become_float32(tmp_path, dtype):
    images = np.random.default_rng(0).random((6, 8, 8, 3)).astype(dtype)
    np.save(tmp_path / "a.npy", images)
    image = load_source(config(f"array:{tmp_path / 'a.npy'}"), "train")[2]["image"]
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, images[2].astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_zeros_and_ones_are_black_and_white(tmp_path, dtype):
    images = (noise(6, 8, 8, 3) > 99).astype(dtype)
    np.save(tmp_path / "a.npy", images)
    source = load_source(config(f"array:{tmp_path / 'a.npy'}"), "train")
    unit = source[np.arange(6)]["image"] / 255
    np.testing.assert_array_equal(unit, images)
    np.testing.assert_allclose(data_statistics(source, None).variance, images.var(), rtol=1e-12)


def test_array_mistakes_are_told_in_one_line(tmp_path):
    path = tmp_path / "a.npy"
    data = config(f"array:{path}")
    assert "no such file" in error_of(load_source, data, "train")

    def message(array):
        np.save(path, array)
        return error_of(load_source, data, "train")

    nan = np.zeros((6, 8, 8, 3), np.float32)
    nan[4, 3, 2, 1] = np.nan
    assert all(part in message(nan) for part in ["image 4", "nan", "(3, 2, 1)"])
    for outside in (-0.1, 255.0, np.inf):
        nan[4, 3, 2, 1] = outside
        assert all(part in message(nan) for part in ["image 4", "[0, 1]", "(3, 2, 1)"])
    assert "int64" in message(np.zeros((6, 8, 8, 3), np.int64))
    assert "objects" in message(np.array([{}, {}], object))
    assert "(6, 8)" in message(np.zeros((6, 8), np.uint8))
    assert "(0, 8, 8, 3)" in message(np.zeros((0, 8, 8, 3), np.uint8))
    assert "(3, 8, 8)" in message(np.full((6, 3, 8, 8), 7, np.uint8))  # channels first

    np.save(path, noise(6, 8, 8, 3))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:20], b"not NumPy's", b""):
        path.write_bytes(damaged)
        assert "cannot be read" in error_of(load_source, data, "train")

    zipped = config(f"array:{tmp_path / 'a.npz'}")
    np.savez_compressed(tmp_path / "a.npz", image=noise(6, 8, 8, 3))
    whole = (tmp_path / "a.npz").read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], bytes(broken)):
        (tmp_path / "a.npz").write_bytes(damaged)
        assert "cannot be read" in error_of(load_source, zipped, "train")
    np.savez(tmp_path / "a.npz", pictures=noise(6, 8, 8, 3))
    assert "'pictures'" in error_of(load_source, zipped, "train")
    np.savez(tmp_path / "a.npz", image=noise(6, 8, 8, 3), label=np.arange(5))
    assert "labels" in error_of(load_source, zipped, "train")
    np.savez(tmp_path / "a.npz", image=noise(6, 8, 8, 3), label=np.array(["a"] * 6))
    assert "labels" in error_of(load_source, zipped, "train")


def test_a_bad_value_is_found_beyond_the_first_chunk(tmp_path):
    images = np.zeros((300, 256, 256, 1), np.float32)  # 75 MiB: more than is looked at at once
    images[299, 0, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", images)
    data = config(f"array:{tmp_path / 'a.npy'}", image_shape=(256, 256, 1))
    assert "image 299" in error_of(load_source, data, "train")
