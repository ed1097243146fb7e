"""VQ-VAE on larger crops of photographs: 128x128 to 32x32 codes of K=512, as for ImageNet.

    python -m train --config configs/vqvae_photos128.py --workdir runs/vqvae_photos128

As many codes as `vqvae_imagenet128` has, 9216 bits, with the small network and the photographs of
`vqvae_photos`, to compress with. A CPU core, shared: 27 minutes. Test crops: error 0.0293 (the
mean image: 1.29), PSNR 28.7, 470 of 512 codes used.
"""

from ml_collections import ConfigDict

from configs import base, vqvae_photos


def get_config() -> ConfigDict:
    config = vqvae_photos.get_config()
    config.name = "vqvae_photos128"
    config.model.image_shape = (128, 128, 3)
    config.model.bottleneck.codes = 512
    config.loss_weights = base.mean_squared_weights(image_shape=(128, 128, 3), depth=32)
    config.train.steps = 1500
    config.train.batch_size = 8
    config.evaluation.batch_size = 8
    config.evaluation.every = 500
    return config
