"""Weights of networks that others trained, from a file that the user has put somewhere.

Nothing is downloaded and nothing is unpickled. A file is `.npz`, or `.safetensors` with the extra
`weights`. LPIPS's is made where PyTorch and the package `lpips` are installed:

    state = lpips.LPIPS(net="vgg").state_dict()  # or "alex"
    numpy.savez("lpips_vgg16.npz", **{name: array.numpy() for name, array in state.items()})

and that of FID's Inception-v3 alike, from `state = torch.load(FILE, weights_only=True)` of the file
of pytorch-fid, pt_inception-2015-12-05-6726825d.pth; a VQGAN's from its authors' checkpoint,
`state = torch.load(FILE, map_location="cpu", weights_only=True)["state_dict"]`.
"""

import functools
import hashlib
import io
import logging
import zipfile
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import linen as nn

import models.perceptual
from models import inception
from models.perceptual import (
    NETS,
    FeatureDistance,
    PerceptualTerm,
    lpips_from_weights,
    random_lpips,
)
from models.vqgan_weights import vqgan_from_weights
from train.errors import UserError

log = logging.getLogger("train")


class Weights(NamedTuple):
    """A file's arrays.

    Attributes:
      arrays: name to array.
      sha256: of the file, in hexadecimal.
    """

    arrays: dict[str, np.ndarray]
    sha256: str


def read_weights(path: str, *, sha256: str = "") -> Weights:
    """Reads a `.npz` or `.safetensors` file, local or in a bucket, and logs its SHA-256.

    Args:
      path: of the file.
      sha256: what the file must have, in hexadecimal; "": whatever it has.

    Raises:
      UserError: no such file, another format, a damaged or another file, or a missing extra.
    """
    file = epath.Path(path).expanduser()
    if file.suffix not in (".npz", ".safetensors"):
        raise UserError(f"weights are read from .npz or .safetensors files; {path} is neither")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"no weights can be read from {path} ({error.strerror or error}); nothing is "
            "downloaded: put the file there, made as train/weights.py says"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256.lower():
        raise UserError(f"{path} has the SHA-256 {found}, expected {sha256}: it is another file")
    read = _npz if file.suffix == ".npz" else _safetensors
    arrays = read(content, path)
    log.info("weights: %s, SHA-256 %s", path, found)
    return Weights(arrays, found)


def load_lpips(path: str, *, net: str = "vgg16", sha256: str = "") -> FeatureDistance:
    """LPIPS's weights from a file with the arrays that `lpips_from_weights` names.

    Args:
      path: of the file; see the module.
      net: "vgg16", which VQGAN is trained with, or "alexnet", the usual one to evaluate with.
      sha256: as in `read_weights`.

    Raises:
      UserError: as `read_weights`; or an array is absent or of another shape.
    """
    arrays = read_weights(path, sha256=sha256).arrays
    try:
        return lpips_from_weights(arrays, net=net)
    except ValueError as error:
        raise UserError(f"{path} does not hold LPIPS: {error}") from error


@functools.cache
def load_inception(path: str, *, sha256: str = "") -> inception.Weights:
    """Weights of FID's Inception-v3, from a file with what `inception_from_weights` names.

    Raises:
      UserError: as `read_weights`; or an array is absent or of another shape.
    """
    arrays = read_weights(path, sha256=sha256).arrays
    try:
        return inception.inception_from_weights(arrays)
    except ValueError as error:
        raise UserError(f"{path} does not hold FID's Inception-v3: {error}") from error


def load_vqgan(path: str, model: nn.Module, *, sha256: str = "") -> dict[str, Any]:
    """Variables of a VQGAN that its authors trained, from what `vqgan_from_weights` names.

    Args:
      path: of the file; see the module.
      model: what `configs/vqgan_imagenet256.py` builds, of the file's sizes; its
        `apply(variables, {"image": images}, train=False)` then reconstructs as theirs.
      sha256: as in `read_weights`.

    Raises:
      UserError: as `read_weights`; or the arrays do not fit the model.
    """
    arrays = read_weights(path, sha256=sha256).arrays
    image = jax.ShapeDtypeStruct((1, *model.decoder.output_shape), np.float32)
    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), {model.key: x}, train=True), image
    )
    try:
        return {"params": vqgan_from_weights(arrays, variables["params"])}
    except ValueError as error:
        raise UserError(f"{path} does not hold this VQGAN: {error}") from error


@functools.cache
def perceptual_term(net: str, file: str) -> PerceptualTerm | None:
    """The loss term that the section `model.perceptual` of a config describes; None without a net.

    With a file it is LPIPS; without one a distance of random features, and so named.

    Raises:
      UserError: no such network, a file without one, or as `load_lpips`.
    """
    if not net:
        if file:
            raise UserError(
                f"model.perceptual.file is {file!r}, but model.perceptual.net names no network; "
                f"known: {', '.join(NETS)}"
            )
        return None
    if net not in NETS:
        raise UserError(
            f"model.perceptual.net is {net!r}; known: {', '.join(NETS)}, or '' for none"
        )
    if file:
        return models.perceptual.perceptual_term(load_lpips(file, net=net))
    return models.perceptual.perceptual_term(random_lpips(jax.random.key(0), net=net))


def _npz(content: bytes, path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is no .npz of plain arrays ({error}); save it with numpy.savez"
        ) from error


def _safetensors(content: bytes, path: str) -> dict[str, np.ndarray]:
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise UserError(
            "weights in .safetensors need the extra: pip install 'bottlenecks[weights]', or save "
            f"{path} as .npz"
        ) from error
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{path} is a damaged .safetensors file ({error})") from error
