"""VQGAN in small: `vqvae_digits` with an adversary, on 8x8 digits.

    python -m train --config configs/vqgan_digits.py --workdir runs/vqgan_digits

A discriminator of patches from step 1,000, hinge losses, the adaptive weight times 0.1. 2 CPU cores
shared with other work: 4 minutes. Test split: normalised error 0.0276, Frechet distance of random
features 0.0273; with `--config.adversary.loss=` 0.0280 and 0.0303; one seed each, so no more than a
sign that both players train. The discriminator's loss ends at 0.38, where 1 is knowing nothing.
With the authors' weight, `--config.adversary.weight=0.8`, this small discriminator never learns:
its loss stays at 1, its gradients vanish, and the adaptive weight grows to a hundred and more.
There is no perceptual loss, and 8x8 pixels hold no texture to win.
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
    config.adversary.weight = 0.1
    # Adam as in the authors' code.
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.evaluation.evaluators = ("losses", "image", "codes", "frechet")
    return config
