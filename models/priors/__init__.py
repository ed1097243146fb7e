"""Priors: likelihoods of codes, fitted after the bottleneck that gives them, and drawn from."""

from models.priors.pixelcnn import GatedPixelCNN

__all__ = ["GatedPixelCNN"]
