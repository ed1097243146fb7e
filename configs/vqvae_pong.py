"""VQ-VAE on frames of Pong: 40x40 to 10x10 codes of K=256, for a prior over video.

    python -m train --config configs/vqvae_pong.py --workdir runs/vqvae_pong

Test split: normalised error 0.0893 (the mean image: 0.911), PSNR 47.3, perplexity 10.2, 254 of 256
codes used. The paddles are drawn as they are, the ball faintly.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_pong"
    config.model.image_shape = (40, 40, 1)
    config.model.backbone = base.convnet(widths=(32, 64), last_width=None)
    # A code then sees 10x10 pixels: with more, the empty field's would tell of what is far away.
    config.model.backbone.residual_layers = 0
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
