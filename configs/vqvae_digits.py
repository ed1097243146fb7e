"""VQ-VAE on the 8x8 digits of scikit-learn: real data, no network, a first run.

python -m train --config configs/vqvae_digits.py --workdir runs/vqvae_digits
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_digits"
    config.model.image_shape = (8, 8, 1)
    config.model.backbone = ConfigDict(
        {
            "name": "convnet",
            "widths": (32,),
            "last_width": 64,
            "residual_layers": 2,
            "residual_width": 32,
        }
    )
    config.model.bottleneck = ConfigDict(
        {
            "name": "vq",
            "codes": 64,
            "depth": 16,
            "codebooks": 1,
            "update": "ema",
            "decay": 0.99,
            "epsilon": 1e-5,
            "debias": False,
            "start": "kmeans",
            "revive_below": 0.1,
        }
    )
    config.loss_weights = ConfigDict({"reconstruction": 2 / 64, "commitment": 0.25 / 16})
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 64
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 1000
    config.log_every = 50
    config.checkpoint_every = 500
    return config
