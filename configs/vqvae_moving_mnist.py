"""VQ-VAE on frames of moving MNIST: 64x64 to 16x16 codes of K=256, for a prior over video.

    python -m train --config configs/vqvae_moving_mnist.py --workdir runs/vqvae_moving_mnist

Test split: normalised error 0.0536 (the mean image: 0.947), PSNR 26.9, perplexity 14.5, 248 of 256
codes used.

MNIST is read as TFDS prepared it; `--config.data.source=moving:digits` needs nothing but
scikit-learn. With `--config.data.test=published` the test frames are those of the authors' 10,000
sequences, as TFDS prepared them (`moving_mnist`).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_moving_mnist"
    config.model.image_shape = (64, 64, 1)
    config.model.backbone = base.convnet(widths=(32, 64), last_width=None)
    # A code then sees 10x10 pixels, so that what is far away changes few codes.
    config.model.backbone.residual_layers = 0
    config.model.bottleneck = base.ema_codebook(codes=256, depth=16)
    config.loss_weights = base.mean_squared_weights(image_shape=(64, 64, 1), depth=16)
    config.data.source = "moving:mnist"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 2000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "codes")
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
