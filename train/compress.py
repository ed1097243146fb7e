"""Images as files of codes: `python -m train.compress IMAGE... --workdir PRIOR --out DIR`.

The codes of a VQ-VAE, coded under its trained prior, or with `--prior=table` under counts of its
training codes; then `--workdir` may be the VQ-VAE's own. `python -m train.decompress` is the way
back.
"""

import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn
from PIL import Image

from train import cli, entropy_coding, latents, runs
from train.compressed_files import (
    OVERHEAD,
    PRIORS,
    Compressed,
    code_checksum,
    fingerprint,
    pack,
)
from train.data.codes import check_encoder, encoder_of
from train.data.files import read_image
from train.data.sources import load_source
from train.errors import UserError
from train.metrics.image import peak_signal_to_noise


class Codec(NamedTuple):
    """What compresses and decompresses.

    Attributes:
      run: encodes images and decodes codes.
      prior: "trained" or "table".
      fingerprint: of run and prior.
      walk: label to the prior that codes are coded under; see `entropy_coding`.
      label: codes `[*grid, codebooks]` to the class under which they are shortest, or None.
    """

    run: runs.Run
    prior: str
    fingerprint: bytes
    walk: Callable[[int | None], entropy_coding.Walk]
    label: Callable[[np.ndarray], int | None]


def load_codec(workdir: str, *, prior: str) -> Codec:
    """The codec of a prior's folder, or for "table" also of a run with discrete codes.

    Raises:
      UserError: there is no such run, its prior is none over codes of still images, or the run of
        its codes has been trained further.
    """
    config = runs.read_config(workdir)
    place = encoder_of(config.data) or workdir
    if config.model.prior and place == workdir:
        raise UserError(f"{workdir} holds a prior over pixels; name one over another run's codes")
    if prior == "trained" and not config.model.prior:
        raise UserError(f"{workdir} holds no prior: train one over its codes, or use --prior=table")
    check_encoder(place, config.data.encoder_checksum)
    run = runs.load(place)
    if prior == "table":
        source = load_source({**config.data, "source": f"codes:{place}", "train": "train"}, "train")
        code = source[np.arange(len(source))]["code"]
        table = entropy_coding.table_of(code, run.model.bottleneck.codes)
        walk = entropy_coding.table_walk(table, code.shape[1:])
        return Codec(run, prior, fingerprint(run.variables, table), lambda _: walk, lambda _: None)
    if config.model.prior.name != "pixelcnn":
        raise UserError(
            f"{workdir} holds a prior {config.model.prior.name!r}, which does not compress; "
            "'pixelcnn' does, and so does --prior=table"
        )
    trained = runs.load(workdir)
    net, variables = trained.model.net, {"params": trained.variables["params"]["net"]}
    shape = tuple(trained.config.model.code_shape)

    def shortest(code: np.ndarray) -> int | None:
        if not net.classes:
            return None
        labels = np.arange(net.classes, dtype=np.int32)
        nats = latents.in_batches(lambda v, some: _nats(net, v, code, some), variables, labels)
        return int(np.argmin(nats))

    return Codec(
        run,
        prior,
        fingerprint(run.variables, variables),
        lambda label: entropy_coding.pixelcnn_walk(net, variables, shape, label),
        shortest,
    )


@partial(jax.jit, static_argnums=0)
def _nats(net: nn.Module, variables: Any, code: jax.Array, label: jax.Array) -> jax.Array:
    """Length of one grid of codes under each of the labels `[n]`."""
    codes = jnp.broadcast_to(code, (label.shape[0], *code.shape))
    return -net.apply(variables, codes, label, method="log_prob")


def compress(codec: Codec, image: np.ndarray) -> tuple[Compressed, float]:
    """An image uint8 `[height, width, channels]` compressed, and -log2 p(codes) in bits."""
    code = latents.encode(codec.run, image[None])[0]
    label = codec.label(code)
    payload, bits = entropy_coding.encode(codec.walk(label), code)
    checksum = code_checksum(code)
    return Compressed(codec.prior, label, codec.fingerprint, checksum, payload), bits


def decompress(codec: Codec, compressed: Compressed, name: str) -> np.ndarray:
    """The image of the codes, uint8 `[height, width, channels]`.

    Raises:
      UserError: the file `name` is of another model, or its codes come out otherwise than they went
        in.
    """
    if compressed.fingerprint != codec.fingerprint:
        raise UserError(
            f"{name} was compressed with another model than this workdir's, or the model has been "
            "trained further since; name the run that compressed it"
        )
    try:
        code = entropy_coding.decode(codec.walk(compressed.label), compressed.payload)
    except ValueError:
        code = np.zeros(0, np.int32)
    if code_checksum(code) != compressed.checksum:
        raise UserError(
            f"{name}: the codes are not those that were compressed, for the prior's arithmetic is "
            "another here; decompress it where it was compressed, or compress with --prior=table"
        )
    return picture(latents.decode(codec.run, code[None])[0])


def picture(image: np.ndarray) -> np.ndarray:
    """An image in [0, 1] as uint8."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def size_as_good(image: np.ndarray, psnr: float, kind: str) -> int | None:
    """Bytes of the smallest "JPEG" or "WEBP" whose PSNR is no lower; None if none is as good.

    Args:
      image: uint8 `[height, width, channels]`.
      psnr: decibels.
      kind: Pillow's name of the format, whose qualities 0 .. 100 are all tried.
    """
    sizes = []
    pixels = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    for quality in range(101):
        file = io.BytesIO()
        pixels.save(file, kind, quality=quality)
        again = np.asarray(Image.open(file).convert(pixels.mode)).reshape(image.shape)
        if decibels(again, image) >= psnr:
            sizes.append(file.tell())
    return min(sizes, default=None)


def decibels(image: np.ndarray, original: np.ndarray) -> float:
    """PSNR of uint8 images."""
    pair = (np.asarray(x, np.float32) / 255 for x in (image, original))
    return float(peak_signal_to_noise(*pair))


class Sizes(NamedTuple):
    """Bits of an image as a file of codes, beside others, and its PSNR.

    Attributes:
      codes: -log2 p(codes).
      coded: what the entropy coder made of them.
      file: with header and checksums.
      nominal: log2 K for each code.
      psnr: decibels, of the decoded file.
      jpeg: the smallest JPEG whose PSNR is no lower; not a number if there is none.
      webp: likewise.
    """

    codes: float
    coded: int
    file: int
    nominal: float
    psnr: float
    jpeg: float
    webp: float


def measure(codec: Codec, image: np.ndarray, name: str) -> tuple[bytes, Sizes, np.ndarray]:
    """The file of an image, its sizes, and the picture uint8 that the file decodes to.

    Args:
      codec: of `load_codec`.
      image: uint8 `[height, width, channels]`.
      name: for error messages.
    """
    compressed, bits = compress(codec, image)
    content = pack(compressed)
    again = decompress(codec, compressed, name)  # as whoever gets the file will
    psnr = decibels(again, image)
    tokens = latents.encode(codec.run, image[None]).size
    nominal = tokens * math.log2(codec.run.model.bottleneck.codes)
    others = [size_as_good(image, psnr, kind) for kind in ("JPEG", "WEBP")]
    jpeg, webp = (8 * size if size else math.nan for size in others)
    coded, file = 8 * len(compressed.payload), 8 * len(content)
    return content, Sizes(bits, coded, file, nominal, psnr, jpeg, webp), again


def _read(path: str, shape: tuple[int, ...]) -> np.ndarray:
    image = read_image(Path(path), shape[2])
    if image.shape != shape:
        raise UserError(
            f"{path} is an image of {image.shape[0]} x {image.shape[1]}; the model's are "
            f"{shape[0]} x {shape[1]}: resize or crop it"
        )
    return image


def new_folder(name: str) -> Path:
    """The folder to write to, made if it is not there; raises UserError if it cannot be."""
    path = Path(name).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {name} cannot be made: {error.strerror}") from error
    return path


def main(arguments: list[str]) -> None:
    """Compresses each image and prints its bits beside those of JPEG and WebP."""
    paths = arguments[1:]
    if not paths:
        raise UserError("no image is named: python -m train.compress IMAGE... --workdir PRIOR")
    names = [Path(path).stem for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"several images are called {twice[0]}, and so would their files be")
    codec = load_codec(flags.FLAGS.workdir, prior=flags.FLAGS.prior)
    shape = tuple(codec.run.config.model.image_shape)
    images = [_read(path, shape) for path in paths]
    out = new_folder(flags.FLAGS.out)
    print(f"{'bits of':>14}  {'codes':>8}  {'coded':>6}  {'file':>6}  {'nominal':>7}", end="")
    print(f"  {'PSNR':>5}  {'JPEG':>6}  {'WebP':>6}")
    rows = []
    for path, image in zip(paths, images, strict=True):
        content, sizes, _ = measure(codec, image, path)
        (out / f"{Path(path).stem}.bnk").write_bytes(content)
        rows.append(list(sizes))
        _print_row(Path(path).name, rows[-1])
    if len(rows) > 1:
        _print_row("mean", np.nanmean(rows, axis=0).tolist())
    print(
        f"codes: -log2 p; file: with {OVERHEAD} bytes of header and checksums; JPEG and WebP: the "
        "smallest files whose PSNR is no lower"
    )


def _print_row(name: str, row: list[float]) -> None:
    bits, coded, file, nominal, psnr, jpeg, webp = row
    print(f"{name[-14:]:>14}  {bits:>8.1f}  {coded:>6.0f}  {file:>6.0f}  {nominal:>7.0f}", end="")
    print(f"  {psnr:>5.2f}  {jpeg:>6.0f}  {webp:>6.0f}")


if __name__ == "__main__":
    cli.define_workdir("folder of a prior over another run's codes")
    flags.DEFINE_string("out", "compressed", "folder of the files to write, NAME.bnk each")
    flags.DEFINE_enum("prior", "trained", PRIORS, "table: counts of the run's training codes")
    cli.run(main, arguments=True)
