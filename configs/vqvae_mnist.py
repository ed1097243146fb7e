"""VQ-VAE on MNIST: 28x28 to 7x7 codes of K=128.

python -m train --config configs/vqvae_mnist.py --workdir runs/vqvae_mnist
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_mnist"
    config.model.image_shape = (28, 28, 1)
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
            "codes": 128,
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
    config.loss_weights = ConfigDict({"reconstruction": 2 / (28 * 28), "commitment": 0.25 / 16})
    config.data.source = "tfds:mnist"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 5000
    config.train.batch_size = 64
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 2500
    config.log_every = 100
    config.checkpoint_every = 500
    return config
