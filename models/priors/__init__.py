"""Priors: likelihoods of codes, fitted after the bottleneck that gives them, and drawn from."""

from collections.abc import Callable

from flax import linen as nn

from models.priors.pixelcnn import GatedPixelCNN
from models.priors.pixelcnn_sampling import sample
from models.priors.prior import CodeLikelihood, Prior, PriorOutput
from models.priors.wavenet import WaveNet
from models.priors.wavenet_sampling import sample_sequences

# A new prior is one line here.
PRIORS: dict[str, Callable[..., nn.Module]] = {
    "pixelcnn": GatedPixelCNN,
    "wavenet": WaveNet,
}

__all__ = [
    "PRIORS",
    "CodeLikelihood",
    "GatedPixelCNN",
    "Prior",
    "PriorOutput",
    "WaveNet",
    "sample",
    "sample_sequences",
]
