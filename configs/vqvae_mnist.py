"""VQ-VAE on MNIST: 28x28 to 7x7 codes of K=128.

    python -m train --config configs/vqvae_mnist.py --workdir runs/vqvae_mnist

2 CPU cores shared with other work: about 10 minutes. Test split: normalised error 0.032 (the mean
image: 0.711), PSNR 25.6, perplexity 95, all 128 codes used.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqvae_mnist"
    config.model.image_shape = (28, 28, 1)
    config.model.backbone = base.convnet(widths=(32, 64), last_width=64)
    config.model.bottleneck = base.ema_codebook(codes=128, depth=16)
    config.loss_weights = base.mean_squared_weights(image_shape=(28, 28, 1), depth=16)
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
