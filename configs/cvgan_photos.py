"""CVGAN in small: `vqgan_photos` with routed capsules in place of its codebook.

    python -m train --config configs/cvgan_photos.py --workdir runs/cvgan_photos

For 2,000 of its steps see "Routed capsules" in the README. 16 capsules of 2 numbers at each of 8x8
positions: as deep together as a codeword there. `configs/cvgan_photos.py:published` has the capsule
layer as released, at its random start. A perceptual loss is added as in `vqgan_photos`.
"""

from ml_collections import ConfigDict

from configs import base, vqvae_photos
from configs.vqgan_photos import add_adversary

MODES = ("agreement", "published")


def get_config(mode: str = "agreement") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"cvgan_photos has no variant {mode!r}; known: {', '.join(MODES)}")
    config = vqvae_photos.get_config()
    config.name = "cvgan_photos"
    config.model.bottleneck = base.capsules(primaries=16, pose=8, outputs=16, depth=2)
    if mode == "published":
        config.model.bottleneck = base.released_capsules()
    # Mean squared error over the data's variance.
    config.loss_weights = ConfigDict({"reconstruction": 2 / (32 * 32 * 3)})
    add_adversary(config)
    config.evaluation.evaluators = ("losses", "image", "frechet")
    return config
