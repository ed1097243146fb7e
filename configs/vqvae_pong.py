"""VQ-VAE on frames of Pong: 40x40 to 10x10 codes of K=256, for a prior over video.

python -m train --config configs/vqvae_pong.py --workdir runs/vqvae_pong
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_pong"
    config.model.image_shape = (40, 40, 1)
    config.model.backbone = base.convnet(widths=(16, 32), last_width=32, residual_width=16)
    config.model.bottleneck = base.ema_codebook(codes=256, depth=16)
    # Errors over the variance, which is small: what moves covers few pixels.
    config.loss_weights = base.mean_squared_weights(image_shape=(40, 40, 1), depth=16)
    config.data.source = "game:pong"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
