"""Priors: likelihoods of codes, fitted after the bottleneck that gives them, and drawn from."""

from models.priors.pixelcnn import GatedPixelCNN
from models.priors.pixelcnn_sampling import sample

__all__ = ["GatedPixelCNN", "sample"]
