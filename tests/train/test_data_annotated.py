"""Photographs with human segmentations: the layout of BSDS500, and what may be wrong with it."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from train.data.annotated import find_annotated, read_annotated
from train.errors import UserError


@pytest.fixture
def grey():
    return np.full((6, 10, 3), 128, np.uint8)


def test_photographs_and_every_persons_map(tmp_path, grey, write_annotated):
    maps = [np.arange(60, dtype=np.uint16).reshape(6, 10) // n for n in (7, 30, 60)]
    write_annotated(tmp_path, "b", grey, maps)
    write_annotated(tmp_path, "a", grey, maps[:1])
    write_annotated(tmp_path, "val/c", grey, maps)
    (tmp_path / "images" / "Thumbs.db").write_text("")
    places = find_annotated(str(tmp_path))
    found = [read_annotated(place) for place in places]
    assert [photograph.name for photograph in found] == ["a", "b", "c"]
    assert [len(photograph.truths) for photograph in found] == [1, 3, 3]
    assert found[1].image.shape == (6, 10, 3)
    assert found[1].image.dtype == np.uint8
    for truth, map_ in zip(found[1].truths, maps, strict=True):
        np.testing.assert_array_equal(truth, map_)


def test_the_archives_own_name_of_the_annotations(tmp_path, grey, write_annotated):
    write_annotated(tmp_path, "a", grey, [np.zeros((6, 10), np.uint16)], truth="groundTruth")
    assert len(find_annotated(str(tmp_path))) == 1


def test_folders_that_are_something_else(tmp_path, grey, write_annotated):
    with pytest.raises(UserError, match="expected folders images/"):
        find_annotated(str(tmp_path))
    (tmp_path / "images").mkdir()
    (tmp_path / "ground_truth").mkdir()
    with pytest.raises(UserError, match=r"no \.jpg file"):
        find_annotated(str(tmp_path))
    write_annotated(tmp_path, "a", grey, [np.zeros((6, 10), np.uint16)])
    (tmp_path / "ground_truth" / "a.mat").unlink()
    with pytest.raises(UserError, match=r"a\.jpg has no annotations: expected .*a\.mat"):
        find_annotated(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"other": 3}, "cell array groundTruth.*'groundTruth'"),
        ({"groundTruth": np.zeros(3)}, "cell array groundTruth"),
        ({"groundTruth": np.empty((1, 0), object)}, "groundTruth.*it is empty"),
        ({"groundTruth": {"Boundaries": 3}}, "field Segmentation"),
        (b"", r"a\.mat: not a readable \.mat file"),
        (b"MATLAB 5.0 MAT-file" * 20, r"a\.mat: not a readable \.mat file"),
    ],
)
def test_annotations_that_are_something_else(tmp_path, grey, content, expected, write_annotated):
    write_annotated(tmp_path, "a", grey, [np.zeros((6, 10), np.uint16)])
    path = tmp_path / "ground_truth" / "a.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        savemat(path, content)
    (place,) = find_annotated(str(tmp_path))
    with pytest.raises(UserError, match=expected):
        read_annotated(place)


@pytest.mark.parametrize(
    ("map_", "found"),
    [
        (np.zeros((10, 6), np.uint16), r"uint16 \[10, 6\]; .* \[6, 10\] as a.jpg"),
        (np.zeros((6, 10)), "float64"),
        (np.full((6, 10), -1), "from 0"),
    ],
)
def test_maps_that_do_not_fit_the_photograph(tmp_path, grey, map_, found, write_annotated):
    write_annotated(tmp_path, "a", grey, [np.zeros((6, 10), np.uint16), map_])
    (place,) = find_annotated(str(tmp_path))
    with pytest.raises(UserError, match=f"person 2 is .*{found}"):
        read_annotated(place)


def test_the_data_set_itself():
    folder = Path(os.environ.get("BOTTLENECKS_DATA", "")) / "bsds500"
    if "BOTTLENECKS_DATA" not in os.environ or not folder.exists():
        pytest.skip("BOTTLENECKS_DATA has no folder bsds500/ (validation set of BSDS500)")
    places = find_annotated(str(folder))
    assert len(places) == 100
    photograph = read_annotated(places[0])
    assert photograph.name == "101085"
    assert photograph.image.shape == (481, 321, 3)
    assert [truth.shape for truth in photograph.truths] == [(481, 321)] * 5
    # Regions are counted from 1.
    assert len(np.unique(photograph.truths[0])) == 26
    assert {int(truth.min()) for truth in photograph.truths} == {1}
