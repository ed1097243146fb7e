"""Parameters of our VQGAN from the arrays of the authors' (CompVis/taming-transformers)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.weights import checked_array

# Names of the release by ours; layers of a block keep their names.
_NAMES = (
    (r"^(down|up)_(\d+)_(block|attn)_(\d+)$", r"\1.\2.\3.\4"),
    (r"^(down|up)_(\d+)_(downsample|upsample)_conv$", r"\1.\2.\3.conv"),
    (r"^mid_(block|attn)_(\d+)$", r"mid.\1_\2"),
)
_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")


def vqgan_from_weights(arrays: Mapping[str, np.ndarray], params: Mapping[str, Any]) -> dict:
    """Parameters of an autoencoder, from arrays named and laid out as VQModel's `state_dict`.

    Images here are in [-0.5, 0.5] and there in [-1, 1], so the encoder's first kernel is doubled
    and the decoder's last layer halved: the reconstruction in [0, 1] is that of the release.

    Args:
      arrays: name to array: `encoder.*`, `decoder.*`, `quant_conv.*`, `post_quant_conv.*` and
        `quantize.embedding.weight` `[codes, depth]`. Those of the losses are left alone.
      params: parameters of the model to fill, or their shapes: backbone "vqgan" with
        `post_quant_conv=True`, bottleneck "vq" with `codebook_update="loss"` and one codebook.

    Returns:
      A tree of the names and shapes of `params`, float32.

    Raises:
      ValueError: the model is another; an array is absent, of another shape, not finite, or of a
        layer that the model does not have.
    """
    bottleneck, decoder = params.get("bottleneck", {}), params["decoder"]
    if (
        set(bottleneck) != {"project", "codebook"}
        or len(bottleneck["codebook"]) != 1
        or "post_quant_conv" not in decoder
    ):
        raise ValueError(
            "weights of VQGAN fit the backbone 'vqgan' with post_quant_conv=True and the "
            "bottleneck 'vq' with codebook_update='loss' and codebooks=1; this model has another"
        )
    taken: set[str] = set()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        taken.add(name)
        return checked_array(arrays, name, shape, of="VQGAN").astype(np.float32)

    def layer(tree: Mapping[str, Any], name: str) -> dict:
        """A convolution, a normalisation, or a block of them."""
        found = {}
        for ours, leaf in tree.items():
            if isinstance(leaf, Mapping):
                found[ours] = layer(leaf, f"{name}.{ours}")
            elif ours == "kernel":
                found[ours] = _kernel(take, f"{name}.weight", leaf.shape)
            else:
                kind = {"scale": "weight", "bias": "bias"}[ours]
                found[ours] = take(f"{name}.{kind}", leaf.shape)
        return found

    def network(part: str) -> dict:
        return {
            ours: layer(
                tree, ours if ours == "post_quant_conv" else f"{part}.{_name_of_release(ours)}"
            )
            for ours, tree in params[part].items()
        }

    found = {"encoder": network("encoder"), "decoder": network("decoder")}
    codebook = take("quantize.embedding.weight", bottleneck["codebook"].shape[1:])
    found["bottleneck"] = {
        "project": layer(bottleneck["project"], "quant_conv"),
        "codebook": codebook[None],
    }
    if more := [name for name in arrays if name.startswith(_PARTS) and name not in taken]:
        raise ValueError(
            f"weights of VQGAN hold {more[0]!r}, which this model does not have; is it of other "
            "ch_mult, num_res_blocks or attn_resolutions, or without a codebook?"
        )
    first, last = found["encoder"]["conv_in"], found["decoder"]["conv_out"]
    first["kernel"] = 2 * first["kernel"]
    last.update({name: array / 2 for name, array in last.items()})
    return found


def _name_of_release(ours: str) -> str:
    for pattern, theirs in _NAMES:
        ours = re.sub(pattern, theirs, ours)
    return ours


def _kernel(take: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A kernel `[height, width, in, out]`, or `[in, out]`, from PyTorch's `[out, in, h, w]`."""
    whole = shape if len(shape) == 4 else (1, 1, *shape)
    return take(name, tuple(whole[i] for i in (3, 2, 0, 1))).transpose(2, 3, 1, 0).reshape(shape)
