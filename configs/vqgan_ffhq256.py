"""VQGAN on faces (FFHQ) at 256x256, as released for faces: an adversary from step 30,001.

    python -m train --config configs/vqgan_ffhq256.py --workdir runs/vqgan_ffhq256

reads the images in the folder `FFHQ`; `--config.data.source=folder:PATH` names another.

Meant for GPUs or a TPU slice; not run by us, and the authors' rFID on FFHQ is not known to us.

That of `vqgan_imagenet256`, where the perceptual loss and other batches are told of, with batches
of 4, where the release has 3 on each device. The release adds the faces of CelebA-HQ. FFHQ is the
user's own copy: a folder of its 70,000 images, of which a seventh is held out (by lots, where the
release has a list).
"""

from ml_collections import ConfigDict

from configs import base
from configs.vqgan_imagenet256 import quantise, released


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vqgan_ffhq256"
    released(config, batch_size=4)
    quantise(config)
    config.adversary.start = 30_001
    config.data.source = "folder:FFHQ"
    config.data.holdout = 1 / 7
    config.train.steps = 1_000_000  # 67 epochs of 60,000 images
    return config
