"""Priors: likelihoods of codes, fitted after the bottleneck that gives them, and drawn from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from models.priors.pixelcnn import GatedPixelCNN
from models.priors.pixelcnn_sampling import sample as sample_grids
from models.priors.prior import CodeLikelihood, Prior, PriorOutput
from models.priors.video import VideoPrior, sample_frames
from models.priors.wavenet import WaveNet
from models.priors.wavenet_sampling import sample_sequences

# A new prior is one line here.
PRIORS: dict[str, Callable[..., nn.Module]] = {
    "pixelcnn": GatedPixelCNN,
    "video": VideoPrior,
    "wavenet": WaveNet,
}

__all__ = [
    "PRIORS",
    "CodeLikelihood",
    "GatedPixelCNN",
    "Prior",
    "PriorOutput",
    "VideoPrior",
    "WaveNet",
    "sample",
    "sample_frames",
    "sample_grids",
    "sample_sequences",
]


def sample(
    model: nn.Module,
    variables: Mapping[str, Any],
    key: jax.Array,
    shape: tuple[int, ...],
    **options: Any,
) -> jax.Array:
    """Codes drawn from a prior of `PRIORS`, by its own cached sampler.

    Args, options and errors: those of `sample_grids` (a PixelCNN) and `sample_sequences` (a
    WaveNet).
    """
    draw = sample_sequences if isinstance(model, WaveNet) else sample_grids
    return draw(model, variables, key, shape, **options)
