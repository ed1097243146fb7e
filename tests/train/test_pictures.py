"""What the pictures show, read back from the files."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from train import pictures
from train.errors import UserError


def read(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def squares(values, side=8, channels=1):
    """Images of one brightness each."""
    values = np.asarray(values, np.float32).reshape(-1, 1, 1, 1)
    return np.broadcast_to(values, (values.size, side, side, channels))


def cell(picture, row, column, *, left, top, side=72, gap=4):
    """The middle of an image in the grid."""
    y, x = top + row * (side + gap) + side // 2, left + column * (side + gap) + side // 2
    return picture[y, x]


def test_image_grid_enlarges_in_whole_pixels_and_keeps_the_order(tmp_path):
    image = squares(np.arange(5) / 5)
    image = np.where(np.arange(64).reshape(1, 8, 8, 1) == 0, 1.0, image)  # first pixel white
    pictures.image_grid(image, tmp_path / "a.png", columns=3)
    picture = read(tmp_path / "a.png")
    assert picture.shape == (10 + 72 + 4 + 72 + 10, 10 + 3 * 76 - 4 + 10, 3)
    for i in range(5):
        middle = cell(picture, i // 3, i % 3, left=10, top=10)
        np.testing.assert_array_equal(middle, round(255 * i / 5))  # grey: all channels alike
    # An 8x8 image becomes 72x72: each pixel 9x9, with no blur at its border.
    np.testing.assert_array_equal(picture[10:19, 10:19], 255)
    np.testing.assert_array_equal(picture[10:19, 19:22], 0)


def test_images_may_be_bytes_or_floats_outside_of_the_range(tmp_path):
    pictures.image_grid(squares([-1, 0.5, 2, np.nan]), tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    found = [cell(picture, 0, i, left=10, top=10)[0] for i in range(4)]
    assert found == [0, 128, 255, 0]
    coloured = np.zeros((2, 100, 60, 3), np.uint8) + np.array([10, 200, 30], np.uint8)
    pictures.image_grid(coloured, tmp_path / "b.png", title="colours")
    picture = read(tmp_path / "b.png")
    np.testing.assert_array_equal(picture[80, 30], [10, 200, 30])
    assert picture.shape[0] == 10 + 26 + 100 + 10


def test_reconstructions_stand_below_their_originals(tmp_path):
    above, below = squares([0.0, 0.2, 0.4]), squares([0.1, 0.3, 0.5])
    pictures.reconstructions(above, below, tmp_path / "a.png", columns=2)
    picture = read(tmp_path / "a.png")
    tops = [10, 10 + 76, 10 + 2 * 76 + 12, 10 + 3 * 76 + 12]
    found = [[picture[top + 36, 96 + 36 + 76 * column, 0] for column in (0, 1)] for top in tops]
    assert found == [[0, 51], [26, 76], [102, 255], [128, 255]]
    with pytest.raises(ValueError, match="expected the same shape"):
        pictures.reconstructions(above, below[:2], tmp_path / "b.png")


def test_side_by_side_has_a_row_for_each_subject(tmp_path):
    images = squares(np.arange(6) / 6).reshape(2, 3, 8, 8, 1)
    pictures.side_by_side(images, tmp_path / "a.png", column_labels=["a", "b", "c"])
    picture = read(tmp_path / "a.png")
    for row in range(2):
        for column in range(3):
            middle = cell(picture, row, column, left=10, top=10 + 18)
            np.testing.assert_array_equal(middle, round(255 * (3 * row + column) / 6))
    for wrong, labels in ((images, ["a", "b"]), (images[0], ["a", "b", "c"])):
        with pytest.raises(ValueError, match="a label for each column"):
            pictures.side_by_side(wrong, tmp_path / "b.png", column_labels=labels)


def test_traversals_sort_the_units_by_kl(tmp_path):
    image = squares(np.arange(6) / 6).reshape(2, 3, 8, 8, 1)
    pictures.traversals(
        image, tmp_path / "a.png", units=[4, 9], kl=[0.1, 2.0], values=[-3, 0, 3], title="units"
    )
    picture = read(tmp_path / "a.png")
    top = 10 + 26 + 18
    found = [[cell(picture, r, c, left=96, top=top)[0] for c in range(3)] for r in range(2)]
    np.testing.assert_array_equal(found, np.round(255 * np.array([[3, 4, 5], [0, 1, 2]]) / 6))
    with pytest.raises(ValueError, match="one kl for each unit"):
        pictures.traversals(image, tmp_path / "b.png", units=[4], kl=[0.1], values=[-3, 0, 3])


@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (8, 8, 1), (0, 8, 8, 1)])
def test_what_is_no_image_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="with 1 or 3 channels"):
        pictures.image_grid(np.zeros(shape), tmp_path / "a.png")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("counts", [[3, 0, 1], [[1, 2], [5, 5]], np.ones((10, 512))])
def test_codebook_use_is_drawn(tmp_path, counts):
    pictures.codebook_use(np.array(counts), tmp_path / "use.png")
    assert (read(tmp_path / "use.png") != 255).any()


def test_codebook_use_without_any_use_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"counts \[1, 3\]; expected \[codebooks, K\]"):
        pictures.codebook_use(np.zeros(3), tmp_path / "use.png")


@pytest.mark.parametrize("kl", [[3.0, 0.1, 2.0], [0.0], np.zeros(40)])
def test_kl_per_unit_is_drawn(tmp_path, kl):
    pictures.kl_per_unit(np.array(kl), tmp_path / "kl.png")
    assert (read(tmp_path / "kl.png") != 255).any()
    with pytest.raises(ValueError, match="flatten the positions"):
        pictures.kl_per_unit(np.ones((2, 3)), tmp_path / "kl.png")


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_training_curves_read_what_a_run_wrote(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        lines(
            {"step": 10, "split": "train", "loss": 900.0, "nmse": 0.5, "same": 3e-4},
            {"step": 20, "split": "train", "loss": 800.0, "nmse": 0.4, "same": 3e-4},
            {"step": 20, "split": "train", "loss": 3.0, "nmse": float("nan"), "same": 3e-4},
            {"step": 20, "split": "test", "loss": 4.0, "psnr": 21.0},
        )
        + '{"step": 30, "split": "tr'
    )
    curves = pictures._read_curves(path)
    assert curves["loss"] == {"train": {10: 900.0, 20: 3.0}, "test": {20: 4.0}}
    assert curves["nmse"] == {"train": {10: 0.5, 20: 0.4}}
    assert curves["psnr"] == {"test": {20: 21.0}}
    pictures.training_curves(path, tmp_path / "pictures" / "curves.png")
    assert (read(tmp_path / "pictures" / "curves.png") != 255).any()
    assert os.listdir(tmp_path / "pictures") == ["curves.png"]


def test_training_curves_of_nothing_are_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"no file .*metrics\.jsonl; expected"):
        pictures.training_curves(tmp_path / "metrics.jsonl", tmp_path / "a.png")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has no metrics"):
        pictures.training_curves(tmp_path / "metrics.jsonl", tmp_path / "a.png")


def test_rows_by_name(tmp_path):
    path = tmp_path / "rows.png"
    pictures.rows({"dark": squares([0.0, 0.2]), "bright": squares([0.8, 1.0])}, path)
    picture = read(path)
    for row, column, grey in ((0, 0, 0), (0, 1, 51), (1, 0, 204), (1, 1, 255)):
        np.testing.assert_array_equal(cell(picture, row, column, left=96, top=10), grey)
    pictures.rows({"topographic_vae_digits-2": squares([0.0])}, path)
    picture = read(path)
    assert (picture[:, :8] == 255).all()  # the whole name
    np.testing.assert_array_equal(cell(picture, 0, 0, left=96 + 7 * 10, top=10), 0)
    with pytest.raises(ValueError, match="the same shape"):
        pictures.rows({"one": squares([0.0]), "two": squares([0.0, 1.0])}, path)


def test_a_picture_that_fails_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    pictures.image_grid(squares([0.5]), path)
    before = path.read_bytes()

    def fail(self, part, **_):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pictures.Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.image_grid(squares([0.1]), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_no_pyplot_is_imported():
    code = "import train.pictures, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
