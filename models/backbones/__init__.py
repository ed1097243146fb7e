"""Backbones: encoders and decoders of single frames `[batch, height, width, channels]`."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from models.backbones.block_dense import BLOCK_ACTIVATIONS
from models.backbones.capsule_mlp import CapsuleMLPDecoder, CapsuleMLPEncoder
from models.backbones.convnet import ConvDecoder, ConvEncoder
from models.backbones.mlp import ACTIVATIONS, MLPDecoder, MLPEncoder
from models.backbones.partition import (
    AdditiveDecoder,
    BroadcastDecoder,
    PartitionDecoder,
    PartitionEncoder,
)
from models.backbones.vqgan import STARTS, Layers, VQGANDecoder, VQGANEncoder

__all__ = ["BACKBONES", "build_backbone"]


def _widths(widths: Sequence[int], least: int, name: str = "widths") -> tuple[int, ...]:
    """Widths as a tuple, for a config may hold a list."""
    listed = isinstance(widths, Sequence) and len(widths) >= least
    if not (listed and all(isinstance(width, int) and width > 0 for width in widths)):
        raise ValueError(
            f"{name} must be {least} or more positive whole numbers, e.g. (64, 128); "
            f"found {widths!r}"
        )
    return tuple(widths)


def _convnet(
    output_shape: tuple[int, int, int],
    dtype: Any,
    remat: bool,
    *,
    widths: Sequence[int] = (64, 128),
    last_width: int | None = 128,
    residual_layers: int = 2,
    residual_width: int = 32,
) -> tuple[nn.Module, nn.Module]:
    widths = _widths(widths, least=1)
    for name, value, least in (
        ("last_width", last_width or 0, 0),
        ("residual_layers", residual_layers, 0),
        ("residual_width", residual_width, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(
                f"{name} of backbone 'convnet' is {value!r}; it must be a whole number, "
                f"at least {least}"
            )
    shared = {
        "residual_layers": residual_layers,
        "residual_width": residual_width,
        "dtype": dtype,
        "remat": remat,
    }
    # The decoder mirrors the encoder: as many features where it starts, then the widths backwards.
    hidden = last_width or widths[-1]
    encoder = ConvEncoder(widths=widths, last_width=last_width, **shared)
    decoder = ConvDecoder(output_shape, widths=widths[:-1][::-1], hidden=hidden, **shared)
    return encoder, decoder


def _mlp(
    output_shape: tuple[int, int, int],
    dtype: Any,
    remat: bool,
    *,
    widths: Sequence[int] = (200, 200),
    activation: str = "tanh",
) -> tuple[nn.Module, nn.Module]:
    if remat:
        raise ValueError("backbone 'mlp' is too small to recompute; set remat=False")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"no activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}"
        )
    widths = _widths(widths, least=0)
    encoder = MLPEncoder(widths=widths, activation=activation, dtype=dtype)
    decoder = MLPDecoder(output_shape, widths=widths[::-1], activation=activation, dtype=dtype)
    return encoder, decoder


def _convs(convs: Sequence[Sequence[int]], name: str) -> tuple[tuple[int, int], ...]:
    """Pairs (kernel size, channels) as tuples, for a config may hold lists."""
    if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in convs):
        raise ValueError(
            f"{name} of backbone 'partition' are pairs (kernel size, channels), e.g. "
            f"((5, 32), (5, 8)); found {convs!r}"
        )
    return tuple(_widths(pair, least=2, name=f"pairs of {name}") for pair in convs)


def _partition(
    output_shape: tuple[int, int, int],
    dtype: Any,
    remat: bool,
    *,
    convs: Sequence[Sequence[int]] = ((5, 32), (5, 8)),
    dense: Sequence[int] = (100,),
    decoder_convs: Sequence[Sequence[int]] = ((5, 1),),
    subresolution: int = 2,
    upsample: str = "nearest",
    activation: str = "linear",
    centre: float = 0.5,
    scale: float = 1.0,
    partitions: Sequence[int] = (),
    broadcast: bool = False,
) -> tuple[nn.Module, nn.Module]:
    if remat:
        raise ValueError("backbone 'partition' is too small to recompute; set remat=False")
    if subresolution < 1 or any(size % subresolution for size in output_shape[:2]):
        raise ValueError(
            f"subresolution of backbone 'partition' is {subresolution}; it must divide height and "
            f"width, {output_shape[0]} and {output_shape[1]}"
        )
    for name, value, known in (
        ("upsample", upsample, ("nearest", "bilinear")),
        ("activation", activation, BLOCK_ACTIVATIONS),
    ):
        if value not in known:
            raise ValueError(f"no {name} is called {value!r}; there are {', '.join(known)}")
    if not scale > 0:
        raise ValueError(f"scale of backbone 'partition' is {scale}; it must be above 0")
    decoder_convs = _convs(decoder_convs, "decoder_convs")
    values = {"centre": centre, "scale": scale, "dtype": dtype}
    shared = {
        "dense": _widths(dense, least=0, name="dense"),
        "subresolution": subresolution,
        "upsample": upsample,
        "activation": activation,
        **values,
    }
    encoder = PartitionEncoder(_convs(convs, "convs"), **values)
    if not partitions:
        if broadcast:
            raise ValueError(
                "backbone 'partition' has broadcast=True without partitions; name the partitions "
                "that have decoders of their own, such as (4, 3, 3)"
            )
        return encoder, PartitionDecoder(output_shape, convs=decoder_convs, **shared)
    if decoder_convs:
        raise ValueError(
            "backbone 'partition' with partitions adds up images of decoders without convolutions; "
            "set decoder_convs=()"
        )
    partitions = _widths(partitions, least=1, name="partitions")
    if not broadcast:
        return encoder, AdditiveDecoder(output_shape, partitions, **shared)
    if not shared["dense"]:
        raise ValueError(
            "backbone 'partition' with broadcast=True draws pixels by dense layers; found "
            "dense=(), give widths such as (32, 32)"
        )
    return encoder, BroadcastDecoder(output_shape, partitions, **shared)


def _capsule_mlp(
    output_shape: tuple[int, int, int],
    dtype: Any,
    remat: bool,
    *,
    units: int = 324,
    encoders: int = 2,
) -> tuple[nn.Module, nn.Module]:
    if remat:
        raise ValueError("backbone 'capsule_mlp' is too small to recompute; set remat=False")
    if units < 1 or encoders not in (1, 2):
        raise ValueError(
            f"backbone 'capsule_mlp' has units={units} and encoders={encoders}; expected units of "
            "1 or more, and 2 encoders, for z and u, or 1 for z alone"
        )
    encoder = CapsuleMLPEncoder(units=units, encoders=encoders, dtype=dtype)
    return encoder, CapsuleMLPDecoder(output_shape, dtype=dtype)


def _vqgan(
    output_shape: tuple[int, int, int],
    dtype: Any,
    remat: bool,
    *,
    ch: int = 128,
    ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
    num_res_blocks: int = 2,
    attn_resolutions: Sequence[int] = (16,),
    z_channels: int = 256,
    groups: int = 32,
    start: str = "pytorch",
    post_quant_conv: bool = False,
) -> tuple[nn.Module, nn.Module]:
    ch_mult = _widths(ch_mult, least=1, name="ch_mult")
    attn_resolutions = _widths(attn_resolutions, least=0, name="attn_resolutions")
    for name, value in (
        ("ch", ch),
        ("num_res_blocks", num_res_blocks),
        ("z_channels", z_channels),
        ("groups", groups),
    ):
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"{name} of backbone 'vqgan' is {value!r}; it must be a whole number, at least 1"
            )
    if odd := [ch * multiple for multiple in (1, *ch_mult) if ch * multiple % groups]:
        raise ValueError(
            f"backbone 'vqgan' normalises in {groups} groups, which a width of {odd[0]} does not "
            f"have; make ch={ch} a multiple of {groups}, or set groups"
        )
    if start not in STARTS:
        raise ValueError(f"no start is called {start!r}; there are {', '.join(STARTS)}")
    shared = {
        "ch": ch,
        "ch_mult": ch_mult,
        "num_res_blocks": num_res_blocks,
        "attn_resolutions": attn_resolutions,
        "layers": Layers(groups=groups, start=start, dtype=dtype),
        "remat": remat,
    }
    encoder = VQGANEncoder(z_channels=z_channels, **shared)
    return encoder, VQGANDecoder(output_shape, post_quant_conv=post_quant_conv, **shared)


BACKBONES = {
    "convnet": _convnet,
    "mlp": _mlp,
    "capsule_mlp": _capsule_mlp,
    "partition": _partition,
    "vqgan": _vqgan,
}


def build_backbone(
    name: str,
    *,
    output_shape: Sequence[int],
    dtype: Any = jnp.float32,
    remat: bool = False,
    **options: Any,
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of the backbone called `name`.

    Args:
      name: "convnet", "mlp", "capsule_mlp", "partition" or "vqgan".
      output_shape: (height, width, channels) the decoder gives, channels being what the likelihood
        asks for.
      dtype: what is computed in; parameters and the decoder's output are float32.
      remat: recompute activations in the backward pass instead of keeping them.
      **options: convnet: widths, last_width, residual_layers, residual_width. mlp: widths (of the
        encoder; the decoder has them backwards), activation ("tanh", "relu"). capsule_mlp: units
        (of the latent), encoders (2 for z and u, 1 for z). partition: convs, dense, decoder_convs,
        subresolution, upsample ("nearest", "bilinear"), activation (of the dense layers: "linear",
        "tanh", "relu"), centre and scale (of the images' values), partitions (of the additive
        decoder; () for the paper's), broadcast (whether that draws pixel by pixel, told where).
        vqgan: ch, ch_mult, num_res_blocks, attn_resolutions, z_channels, groups, start ("pytorch",
        "xavier"), post_quant_conv (a 1x1 convolution before the decoder).

    Raises:
      ValueError: unknown name or option, or one that cannot be.
    """
    if name not in BACKBONES:
        raise ValueError(f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}")
    build = BACKBONES[name]
    known = tuple(build.__kwdefaults__)
    if unknown := [option for option in options if option not in known]:
        raise ValueError(
            f"backbone {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(known)}"
        )
    return build(tuple(output_shape), jnp.dtype(dtype), remat, **options)
