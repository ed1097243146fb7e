"""CVGAN on faces (FFHQ) at 256x256.

    python -m train --config configs/cvgan_ffhq256.py --workdir runs/cvgan_ffhq256

reads the images in the folder `FFHQ`; `--config.data.source=folder:PATH` names another.

Meant for GPUs or a TPU slice; not run by us, and the authors' figures are not known to us. That of
`cvgan_imagenet256`; `configs/cvgan_ffhq256.py:published` has the capsule layer as released. FFHQ is
the user's own copy: a folder of its 70,000 images, of which a seventh is held out by lots.
"""

from ml_collections import ConfigDict

from configs.cvgan_imagenet256 import capsules


def get_config(mode: str = "agreement") -> ConfigDict:
    config = capsules(mode, "cvgan_ffhq256")
    config.data.source = "folder:FFHQ"
    config.data.holdout = 1 / 7
    config.train.steps = 500_000  # 67 epochs of 60,000 images
    return config
