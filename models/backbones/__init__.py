"""Backbones: encoders and decoders."""
