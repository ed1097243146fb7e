"""Flax modules: every system by name, built from the `model` section of a config."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from models.autoencoder import Autoencoder, AutoencoderOutput, BottleneckOutput
from models.backbones import build_backbone
from models.gaussian_vae import GaussianBottleneck
from models.likelihoods import build_likelihood
from models.vqvae import VectorQuantizer

__all__ = [
    "BOTTLENECKS",
    "Autoencoder",
    "AutoencoderOutput",
    "BottleneckOutput",
    "GaussianBottleneck",
    "VectorQuantizer",
    "build",
]

# A new bottleneck is one line here.
BOTTLENECKS: dict[str, Callable[..., nn.Module]] = {
    "gaussian": GaussianBottleneck,
    "vq": VectorQuantizer,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(settings: Mapping[str, Any], *, axis_name: str | None = None) -> nn.Module:
    """The model that the `model` section of a config describes.

    Args:
      settings: `image_shape`, `backbone`, `bottleneck`, `likelihood` (each with a `name` and the
        options of the thing named), `data_variance`, `dtype` and `remat`.
      axis_name: mapped axis of the training step, for statistics over all devices; None outside.

    Raises:
      ValueError: unknown name or option, or a value that cannot be; the message says which.
    """
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"model.dtype is {settings['dtype']!r}; known: {', '.join(DTYPES)}")
    dtype = DTYPES[settings["dtype"]]
    height, width, channels = settings["image_shape"]
    # 0 is "measured when the run starts"; until then, any unit serves for shapes.
    variance = settings["data_variance"] or 1.0

    name, options = _named(settings["likelihood"], "model.likelihood")
    if name == "gaussian" and not options.get("variance"):
        options["variance"] = variance  # the default: errors are counted in the data's own variance
    likelihood = build_likelihood(name, **options)

    name, options = _named(settings["backbone"], "model.backbone")
    encoder, decoder = build_backbone(
        name,
        output_shape=(height, width, likelihood.output_channels(channels)),
        dtype=dtype,
        remat=settings["remat"],
        **options,
    )
    name, options = _named(settings["bottleneck"], "model.bottleneck")
    if name not in BOTTLENECKS:
        known = ", ".join(sorted(BOTTLENECKS))
        raise ValueError(f"model.bottleneck.name is {name!r}; known: {known}")
    fields = BOTTLENECKS[name].__dataclass_fields__
    unknown = sorted(set(options) - set(fields))
    if unknown:
        known = ", ".join(sorted(set(fields) - {"parent", "name", "axis_name", "dtype"}))
        raise ValueError(f"model.bottleneck has no option {unknown[0]!r}; {name!r} knows: {known}")
    bottleneck = BOTTLENECKS[name](axis_name=axis_name, dtype=dtype, **options)
    return Autoencoder(encoder, bottleneck, decoder, likelihood, data_variance=variance)


def _named(section: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    options = dict(section)
    if "name" not in options:
        raise ValueError(f"{where} has no 'name'")
    return options.pop("name"), options
