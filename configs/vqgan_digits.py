"""VQGAN in small: `vqvae_digits` with an adversary, on 8x8 digits.

python -m train --config configs/vqgan_digits.py --workdir runs/vqgan_digits

A discriminator of patches from step 1,000, hinge losses, the adaptive weight times 0.8. Images of
this size hold no texture: the run shows that both players train, not what an adversary is good for.
There is no perceptual loss in it.
"""

from ml_collections import ConfigDict

from configs import vqvae_digits


def get_config() -> ConfigDict:
    config = vqvae_digits.get_config()
    config.name = "vqgan_digits"
    config.adversary.loss = "hinge"
    config.adversary.layers = 1
    config.adversary.width = 32
    config.adversary.start = 1000
    # Adam as in the authors' code.
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.evaluation.evaluators = ("losses", "image", "codes", "frechet")
    return config
