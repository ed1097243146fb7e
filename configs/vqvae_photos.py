"""VQ-VAE on crops of the photographs that come with scikit-image and scikit-learn: no network.

python -m train --config configs/vqvae_photos.py --workdir runs/vqvae_photos
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_photos"
    config.model.image_shape = (32, 32, 3)
    config.model.backbone = ConfigDict(
        {
            "name": "convnet",
            "widths": (32, 64),
            "last_width": 64,
            "residual_layers": 2,
            "residual_width": 32,
        }
    )
    config.model.bottleneck = ConfigDict(
        {
            "name": "vq",
            "codes": 256,
            "depth": 32,
            "codebooks": 1,
            "update": "ema",
            "decay": 0.99,
            "epsilon": 1e-5,
            "debias": False,
            "start": "kmeans",
            "revive_below": 0.1,
        }
    )
    config.loss_weights = ConfigDict({"reconstruction": 2 / (32 * 32 * 3), "commitment": 0.25 / 32})
    config.data.source = "photos"
    config.data.crop = "random"
    config.data.flip = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
