"""Flax modules: every system by name, built from the `model` section of a config."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from models.autoencoder import Autoencoder, AutoencoderOutput, BottleneckOutput
from models.backbones import BACKBONES, build_backbone
from models.backbones.waveform import WaveformEncoder
from models.cvvae import CapsuleRouter
from models.fsq_vae import FiniteScalarQuantizer
from models.gaussian_vae import GaussianBottleneck
from models.likelihoods import LIKELIHOODS, build_likelihood
from models.partition_vae import PartitionedGaussian
from models.perceptual import PerceptualTerm
from models.priors import PRIORS, GatedPixelCNN, Prior, WaveNet
from models.scvae import SparseCoder
from models.second_stage import SecondStage
from models.speech import Speech
from models.topographic_vae import TopographicCapsules
from models.vqvae import VectorQuantizer

__all__ = [
    "BOTTLENECKS",
    "Autoencoder",
    "AutoencoderOutput",
    "BottleneckOutput",
    "CapsuleRouter",
    "FiniteScalarQuantizer",
    "GaussianBottleneck",
    "PartitionedGaussian",
    "Prior",
    "SecondStage",
    "SparseCoder",
    "Speech",
    "TopographicCapsules",
    "VectorQuantizer",
    "build",
]

# A new bottleneck is one line here.
BOTTLENECKS: dict[str, Callable[..., nn.Module]] = {
    "capsules": CapsuleRouter,
    "fsq": FiniteScalarQuantizer,
    "gaussian": GaussianBottleneck,
    "partition": PartitionedGaussian,
    "sparse": SparseCoder,
    "topographic": TopographicCapsules,
    "vq": VectorQuantizer,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# Fields of a bottleneck, and of a prior, that no config gives.
_OURS = ("parent", "name", "axis_name", "dtype")
_PRIORS_OURS = (*_OURS, "codebooks", "located")
_DECODERS_OURS = (*_OURS, "codebooks", "codes", "ordered")
_SECOND_OURS = (*_PRIORS_OURS, "classes")


def build(
    settings: Mapping[str, Any],
    *,
    axis_name: str | None = None,
    perceptual: PerceptualTerm | None = None,
) -> nn.Module:
    """The model that the `model` section of a config describes.

    Args:
      settings: `image_shape`, `backbone`, `bottleneck`, `likelihood` (each with a `name` and the
        options of the thing named), `data_variance`, `dtype` and `remat`; or `prior` alike, with
        `code_shape` and `dtype`: then the model is a `Prior`; or `speech`, with `backbone`,
        `bottleneck` and `dtype`: then it is `Speech`; or `second_stage`, with `code_shape`,
        `backbone`, `bottleneck` and `dtype`: then it is a `SecondStage`; else an `Autoencoder`.
      axis_name: mapped axis of the training step, for statistics over all devices; None outside.
      perceptual: a loss term of the images' looks, whose weights are read elsewhere.

    Raises:
      ValueError: unknown name or option, or a value that cannot be; the message says which.
    """
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"model.dtype is {settings['dtype']!r}; known: {', '.join(DTYPES)}")
    dtype = DTYPES[settings["dtype"]]
    if settings.get("prior"):
        return _build_prior(settings, dtype)
    if settings.get("speech"):
        return _build_speech(settings, dtype, axis_name)
    if settings.get("second_stage"):
        return _build_second_stage(settings, dtype, axis_name)
    shape = tuple(settings["image_shape"])
    if len(shape) != 3 or any(_unfit(size, int) for size in shape) or min(shape) < 1:
        raise ValueError(f"model.image_shape is {shape}; it must be (height, width, channels)")
    height, width, channels = shape
    # 0 is "measured when the run starts"; until then, any unit serves for shapes.
    variance = settings["data_variance"] or 1.0

    name, options = _named(settings["likelihood"], "model.likelihood")
    if name == "gaussian" and not options.get("variance"):
        options["variance"] = variance  # the default: errors are counted in the data's own variance
    if name in LIKELIHOODS:
        _check_types("model.likelihood", options, LIKELIHOODS[name].__annotations__)
    likelihood = build_likelihood(name, **options)

    name, options = _named(settings["backbone"], "model.backbone")
    if name in BACKBONES:
        _check_types("model.backbone", options, BACKBONES[name].__annotations__)
    encoder, decoder = build_backbone(
        name,
        output_shape=(height, width, likelihood.output_channels(channels)),
        dtype=dtype,
        remat=settings["remat"],
        **options,
    )
    bottleneck = _build_bottleneck(settings, dtype, axis_name)
    return Autoencoder(
        encoder, bottleneck, decoder, likelihood, data_variance=variance, perceptual=perceptual
    )


def _build_bottleneck(
    settings: Mapping[str, Any], dtype: jnp.dtype, axis_name: str | None
) -> nn.Module:
    name, options = _named(settings["bottleneck"], "model.bottleneck")
    if name not in BOTTLENECKS:
        known = ", ".join(sorted(BOTTLENECKS))
        raise ValueError(f"model.bottleneck.name is {name!r}; known: {known}")
    _check_options("model.bottleneck", name, options, BOTTLENECKS[name], ours=_OURS)
    return BOTTLENECKS[name](axis_name=axis_name, dtype=dtype, **options)


def _build_speech(settings: Mapping[str, Any], dtype: jnp.dtype, axis_name: str | None) -> Speech:
    """The VQ-VAE of speech: an encoder of waveforms, codes, and a WaveNet."""
    if settings["remat"]:
        raise ValueError(
            "model.remat is True, but a WaveNet keeps its activations; set it to False"
        )
    name, options = _named(settings["backbone"], "model.backbone")
    if name != "waveform":
        raise ValueError(f"model.backbone.name is {name!r}; speech has 'waveform'")
    _check_options("model.backbone", name, options, WaveformEncoder, ours=_OURS)
    widths = options.pop("widths", WaveformEncoder.widths)
    if not widths or any(_unfit(width, int) or width < 1 for width in widths):
        raise ValueError(f"model.backbone.widths are {widths!r}; expected such as (64, 64, 128)")
    encoder = WaveformEncoder(tuple(widths), axis_name=axis_name, dtype=dtype, **options)
    if settings["bottleneck"].get("name") != "vq":
        raise ValueError(
            f"model.bottleneck.name is {settings['bottleneck'].get('name')!r}; speech has 'vq'"
        )
    bottleneck = _build_bottleneck(settings, dtype, axis_name)
    name, options = _named(settings["speech"], "model.speech")
    if name != "wavenet":
        raise ValueError(f"model.speech.name is {name!r}; known: wavenet")
    jitter = options.pop("jitter", 0.0)
    if _unfit(jitter, float) or not 0 <= jitter <= 1:
        raise ValueError(f"model.speech.jitter is {jitter!r}; it must be in [0, 1]")
    _check_options("model.speech", name, options, WaveNet, ours=_DECODERS_OURS)
    if options.get("classes", 0) < 1 or options.get("local_features", 0) < 1:
        raise ValueError(
            "model.speech needs classes, the number of speakers, and local_features, at least 1"
        )
    wavenet = WaveNet(codes=256, ordered=True, dtype=dtype, **options)
    return Speech(encoder, bottleneck, wavenet, jitter=jitter, axis_name=axis_name)


def _build_second_stage(
    settings: Mapping[str, Any], dtype: jnp.dtype, axis_name: str | None
) -> SecondStage:
    """The VQ-VAE of codes of `code_shape`: a convolutional encoder, codes, and a PixelCNN."""
    shape = _code_shape(settings)
    if len(shape) != 3:
        raise ValueError(
            f"model.code_shape is {shape}; a second stage has (height, width, codebooks)"
        )
    if settings["remat"]:
        raise ValueError(
            "model.remat is True, but a PixelCNN keeps its activations; set it to False"
        )
    for section, wanted in (
        ("backbone", "convnet"),
        ("bottleneck", "vq"),
        ("second_stage", "pixelcnn"),
    ):
        if settings[section].get("name") != wanted:
            raise ValueError(
                f"model.{section}.name is {settings[section].get('name')!r}; a second stage has "
                f"{wanted!r}"
            )
    _, options = _named(settings["backbone"], "model.backbone")
    _check_types("model.backbone", options, BACKBONES["convnet"].__annotations__)
    # Of the two, the encoder alone: it takes embeddings, and the PixelCNN is the decoder.
    encoder, _ = build_backbone("convnet", output_shape=shape, dtype=dtype, **options)
    bottleneck = _build_bottleneck(settings, dtype, axis_name)
    name, options = _named(settings["second_stage"], "model.second_stage")
    ours = {
        option: options.pop(option, getattr(SecondStage, option))
        for option in ("embedding", "map_features")
    }
    for option, least in (("embedding", 1), ("map_features", 0)):
        if _unfit(ours[option], int) or ours[option] < least:
            raise ValueError(
                f"model.second_stage.{option} is {ours[option]!r}; it must be a whole number, at "
                f"least {least}"
            )
    _check_options("model.second_stage", name, options, GatedPixelCNN, ours=_SECOND_OURS)
    pixelcnn = GatedPixelCNN(codebooks=shape[-1], located=True, dtype=dtype, **options)
    return SecondStage(encoder, bottleneck, pixelcnn, shape[:2], axis_name=axis_name, **ours)


def _build_prior(settings: Mapping[str, Any], dtype: jnp.dtype) -> Prior:
    """The prior over codes of `code_shape`, (*grid, codebooks)."""
    shape = _code_shape(settings)
    if settings["remat"]:
        raise ValueError("model.remat is True, but a prior keeps its activations; set it to False")
    name, options = _named(settings["prior"], "model.prior")
    if name not in PRIORS:
        raise ValueError(f"model.prior.name is {name!r}; known: {', '.join(sorted(PRIORS))}")
    _check_options("model.prior", name, options, PRIORS[name], ours=_PRIORS_OURS)
    return Prior(PRIORS[name](codebooks=shape[-1], dtype=dtype, **options))


def _code_shape(settings: Mapping[str, Any]) -> tuple[int, ...]:
    shape = tuple(settings["code_shape"])
    if len(shape) < 2 or any(_unfit(size, int) for size in shape) or min(shape) < 1:
        raise ValueError(
            f"model.code_shape is {shape}; it must be the codes' grid and their codebooks, such as "
            "(8, 8, 1)"
        )
    return shape


def _named(section: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    options = dict(section)
    if "name" not in options:
        raise ValueError(f"{where} has no 'name'")
    return options.pop("name"), options


def _check_options(
    where: str, name: str, options: Mapping[str, Any], kind: type, *, ours: tuple[str, ...]
) -> None:
    """Refuses options that the dataclass `kind` does not have but for `ours`, or does without."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in ours}
    for option in options:
        if option not in fields:
            nearest = difflib.get_close_matches(option, fields, n=1)
            hint = f"did you mean {nearest[0]!r}? " if nearest else ""
            known = ", ".join(sorted(fields))
            raise ValueError(f"{where} has no option {option!r}; {hint}{name!r} knows: {known}")
    for option, field in fields.items():
        if option not in options and field.default is dataclasses.MISSING:
            raise ValueError(f"{where} needs the option {option!r}, {_TYPES[field.type]}")
    _check_types(where, options, {option: field.type for option, field in fields.items()})


_TYPES = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a text"}


def _check_types(where: str, options: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Refuses values of another type than `types` has; what is no plain type is left alone."""
    for option, value in options.items():
        kind = types.get(option)
        if kind in _TYPES and _unfit(value, kind):
            raise ValueError(f"{where}.{option} is {value!r}; it must be {_TYPES[kind]}")


def _unfit(value: Any, kind: type) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return not (number and math.isfinite(value))
    return not isinstance(value, kind) or (kind is int and isinstance(value, bool))
