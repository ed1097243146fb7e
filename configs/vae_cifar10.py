"""Gaussian VAE on CIFAR-10, with the backbone and likelihood of `vqvae_cifar10_paper`.

    python -m train --config configs/vae_cifar10.py --workdir runs/vae_cifar10

Meant for a GPU; not run by us, who have had none.

van den Oord et al. 2017, section 4.1, give 4.51 bits/dim for their VAE; its latent is not
described there, and ours (8x8 positions of 16 units) is our choice.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vae_cifar10"
    config.model.image_shape = (32, 32, 3)
    config.model.data_variance = 0.0632704
    config.model.backbone = base.convnet(widths=(256, 256), last_width=None, residual_width=256)
    config.model.bottleneck = ConfigDict({"name": "gaussian", "depth": 16})
    config.model.likelihood = ConfigDict({"name": "categorical", "levels": 256})
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "tfds:cifar10"
    config.optimizer.learning_rate = 2e-4
    config.train.steps = 250_000
    config.train.batch_size = 128
    config.evaluation.evaluators = ("losses", "image", "units")
    config.evaluation.every = 25_000
    config.log_every = 500
    config.checkpoint_every = 5000
    return config
