"""VQGAN in small: `vqvae_photos` with an adversary from its middle on.

    python -m train --config configs/vqgan_photos.py --workdir runs/vqgan_photos

For 2,000 of its steps see "Routed capsules" in the README; the same without an adversary:
`--config.adversary.loss=`. It has no perceptual loss, which wants weights of yours
(train/weights.py tells how to make the file); with them, add it by

    --config.model.perceptual.net=vgg16 --config.model.perceptual.file=lpips_vgg16.npz

and `--config.model.perceptual.weight=0.5` where 1 is too much.
"""

from ml_collections import ConfigDict

from configs import vqvae_photos


def get_config() -> ConfigDict:
    config = vqvae_photos.get_config()
    config.name = "vqgan_photos"
    add_adversary(config)
    config.evaluation.evaluators = ("losses", "image", "codes", "frechet")
    return config


def add_adversary(config: ConfigDict) -> None:
    """A small discriminator, for crops of 32x32."""
    config.adversary.loss = "hinge"
    config.adversary.layers = 2
    config.adversary.width = 32
    config.adversary.start = 1500
    # As in `vqgan_digits`, where a small discriminator does not learn with the authors' 0.8.
    config.adversary.weight = 0.1
    # Adam as in the authors' code.
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.pictures_every = 500
