"""VQ-VAE on frames of Breakout: 40x40 to 10x10 codes of K=256, for a prior over video.

    python -m train --config configs/vqvae_breakout.py --workdir runs/vqvae_breakout

As vqvae_pong; not run to its end.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_breakout"
    config.model.image_shape = (40, 40, 1)
    config.model.backbone = base.convnet(widths=(32, 64), last_width=None)
    # A code then sees 10x10 pixels: with more, the empty field's would tell of what is far away.
    config.model.backbone.residual_layers = 0
    config.model.bottleneck = base.ema_codebook(codes=256, depth=16)
    # Errors over the variance, which is small: what moves covers few pixels.
    config.loss_weights = base.mean_squared_weights(image_shape=(40, 40, 1), depth=16)
    config.data.source = "game:breakout"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
