"""The user's own images: a folder of image files, or an array in a .npy or .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from train.data.random_access import Example, ImageSize, InMemory, Source
from train.errors import UserError

_CACHE = 2**30  # bytes of decoded images that a folder keeps
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Pillow lists formats it can name but not decode.
_NOT_IMAGES = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}


def load_folder(place: str, size: ImageSize) -> dict[str, Source]:
    """All image files under a folder, in sorted order; the first sub-folder's name is the label.

    A folder whose only sub-folders are "train" and "test" brings its own splits, each with labels
    from the sub-folders inside. Labels count the sub-folders in sorted order; images beside
    sub-folders have none, and then no image has. Grey, palette, transparent (laid on white), CMYK,
    16-bit and EXIF-rotated files become uint8 of the channels that `data.image_shape` names.

    Raises:
        UserError: no such folder, or no image in it. While reading: a file that cannot be
            decoded, or is too small, by name.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise UserError(f"folder:{place}: no such folder")
    if size.shape[2] not in _MODES:
        raise UserError(f"data.image_shape is {size.shape}; image files give 1, 3 or 4 channels")
    subfolders = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    if subfolders == ["test", "train"]:
        source = {name: _folder(folder / name, size) for name in subfolders}
        train, test = source["train"].classes, source["test"].classes
        if train != test:
            raise UserError(
                f"folder:{place}: train and test have different sub-folders, "
                f"{_few(train)} and {_few(test)}, so their labels would differ"
            )
        return source
    return {"train": _folder(folder, size)}


def _folder(folder: Path, size: ImageSize) -> "_Files":
    extensions = {
        extension
        for extension, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in _NOT_IMAGES
    }
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in extensions and path.name[0] != "." and path.is_file()
    )
    if not paths:
        raise UserError(f"folder:{folder}: no image file in it (of any format Pillow reads)")
    tops = [path.relative_to(folder).parts for path in paths]
    labelled = all(len(parts) > 1 for parts in tops)
    classes = sorted({parts[0] for parts in tops}) if labelled else []
    labels = [classes.index(parts[0]) for parts in tops] if labelled else None
    return _Files(paths, labels, classes, size)


class _Files:
    """Image files decoded at access; the first GiB of decoded images is kept."""

    def __init__(
        self, paths: list[Path], labels: list[int] | None, classes: list[str], size: ImageSize
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.classes = classes
        self.size = size
        self.kept: dict[int, np.ndarray] = {}
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = self.kept.get(index)
        if image is None:
            image = read_image(self.paths[index], self.size.shape[2])
            self.size.check(image.shape, str(self.paths[index]))
            if self.kept_bytes + image.nbytes <= _CACHE:
                self.kept[index] = image
                self.kept_bytes += image.nbytes
        label = {} if self.labels is None else {"label": np.int32(self.labels[index])}
        return {"image": image} | label


def read_image(path: Path, channels: int) -> np.ndarray:
    """An image file as uint8 `[height, width, channels]`, `channels` being 1, 3 or 4.

    Raises:
        UserError: naming the file, where it cannot be decoded.
    """
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except Exception as error:  # damaged files make decoders raise nearly anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable image ({reason}); repair or remove it") from error
    if image.mode == "F":
        raise UserError(f"{path}: floating-point images are not read; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip at 255
        levels = np.clip(np.asarray(image, np.int64), 0, 65535)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    pixels = np.asarray(image.convert(_MODES[channels]))
    return pixels.reshape(*pixels.shape[:2], channels)


def load_array(place: str, size: ImageSize) -> dict[str, Source]:
    """Images `[examples, height, width, (channels)]` in a .npy file, or in a .npz with labels.

    A .npy file is memory-mapped. In a .npz the images are "image", "images" or "imgs", the labels
    (optional, whole numbers) "label" or "labels". Images are uint8, or floating in [0, 1], which
    is checked through the whole file. Truth values and uint8 arrays with nothing but 0 and 1 mean
    black and white: they are held as 0 and 255, the same numbers in [0, 1].

    Raises:
        UserError: no such file, not a NumPy file, objects in it, wrong rank or type, NaN, values
            outside [0, 1], or labels that do not belong to the images.
    """
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"array:{place}: no such file")
    image, label = _read_arrays(path)
    if image.ndim not in (3, 4) or len(image) == 0:
        raise UserError(
            f"{path}: images have shape {image.shape}; expected [examples, height, width] or "
            "[examples, height, width, channels]"
        )
    arrays = {"image": _checked_images(path, image)}
    if label is not None:
        if label.shape != image.shape[:1] or label.dtype.kind not in "iu":
            raise UserError(
                f"{path}: labels are {label.dtype} {label.shape}; expected whole numbers, "
                f"one for each of {len(image)} images"
            )
        arrays["label"] = label.astype(np.int32)
    return {"train": InMemory(arrays)}


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with path.open("rb") as file:
            start = file.read(len(np.lib.format.MAGIC_PREFIX))
        if start == np.lib.format.MAGIC_PREFIX:
            return np.load(path, mmap_mode="r", allow_pickle=False), None
        # Opened here, because numpy.load leaves a damaged zip open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            image = next((n for n in ("image", "images", "imgs") if n in stored), None)
            label = next((n for n in ("label", "labels") if n in stored), None)
            if image is None:
                raise UserError(
                    f"{path}: no array 'image', 'images' or 'imgs'; found {_few(stored.files)}"
                )
            return stored[image], stored[label] if label else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = (
            "Python objects in it" if "object" in str(error).lower() else "damaged, or no array"
        )
        raise UserError(
            f"{path}: cannot be read as .npy or .npz ({reason}); "
            "write it by numpy.save or numpy.savez with uint8 or float32 arrays"
        ) from error


def _checked_images(path: Path, image: np.ndarray) -> np.ndarray:
    """The images with a channel axis, as uint8 or float32 in [0, 1]."""
    if image.ndim == 3:
        image = image[..., np.newaxis]
    chunk = max(1, 2**26 // max(image[0].nbytes, 1))  # 64 MiB at a time, whatever the file's size
    chunks = [(start, image[start : start + chunk]) for start in range(0, len(image), chunk)]
    if image.dtype == np.bool_ or (
        image.dtype == np.uint8 and all(part.max(initial=0) <= 1 for _, part in chunks)
    ):
        return image * np.uint8(255)
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f":
        raise UserError(f"{path}: images are {image.dtype}; expected uint8, or floating in [0, 1]")
    for start, part in chunks:
        bad = ~((part >= 0) & (part <= 1))  # true at NaN too
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            raise UserError(
                f"{path}: image {start + index[0]} holds {part[index]} at {index[1:]}; floating "
                "images are in [0, 1] (divide by their maximum, or store uint8)"
            )
    return image.astype(np.float32, copy=False)


def _few(names: list[str]) -> str:
    """Some names for a message, however many there are."""
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "") or "none"
