"""Gaussian VAE on crops of photographs, with the backbone of `vqvae_photos`.

    python -m train --config configs/vae_photos.py --workdir runs/vae_photos

Everything but the bottleneck and the likelihood's variance is that of `vqvae_photos`. The variance
is 0.001 in squared units of [0, 1], an error of 30 dB: about what the others' reconstructions
have. With the data's own variance the posterior keeps little of an image. Figures: those of
`compare_photos`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vae_photos"
    config.model.image_shape = (32, 32, 3)
    config.model.backbone = base.convnet(widths=(32, 64), last_width=64)
    config.model.bottleneck = ConfigDict({"name": "gaussian", "depth": 32})
    config.model.likelihood = ConfigDict({"name": "gaussian", "variance": 0.001})
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "photos"
    config.data.crop = "random"
    config.data.flip = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "units")
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
