"""SC-VAE on crops of the photographs that come with scikit-image and scikit-learn.

    python -m train --config configs/scvae_photos.py --workdir runs/scvae_photos

2 CPU cores shared with other work: 11 minutes. Test regions: normalised error 0.0207 (the mean
image: 1.17), PSNR 33.9, with 365 entries of the code in use, of 16,384 (5.7 at each of 8x8
positions). In 256 of them 18 of the 256 atoms are ever used (a count of its own: the command does
not print it). Everything but the bottleneck is that of `vqvae_photos`: as many atoms as it has
codes, of the same depth.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "scvae_photos"
    config.model.image_shape = (32, 32, 3)
    config.model.backbone = base.convnet(widths=(32, 64), last_width=64)
    config.model.bottleneck = base.sparse_coder(depth=32, atoms=64, penalty=0.3)
    config.loss_weights = base.sparse_weights(image_shape=(32, 32, 3))
    config.data.source = "photos"
    config.data.crop = "random"
    config.data.flip = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "atoms")
    config.evaluation.every = 1000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
