"""CVGAN on the images of COCO-Stuff at 256x256.

    python -m train --config configs/cvgan_cocostuff256.py --workdir runs/cvgan_cocostuff256

reads the images in the folders `COCO/train` and `COCO/test`, the user's own copies of COCO's
train2017 and val2017; `--config.data.source=folder:PATH` names another place.

Meant for GPUs or a TPU slice; not run by us, and the authors' figures are not known to us. That of
`cvgan_imagenet256`; `configs/cvgan_cocostuff256.py:published` has the capsule layer as released.
"""

from ml_collections import ConfigDict

from configs.cvgan_imagenet256 import capsules


def get_config(mode: str = "agreement") -> ConfigDict:
    config = capsules(mode, "cvgan_cocostuff256")
    config.data.source = "folder:COCO"
    config.train.steps = 500_000  # 34 epochs of 118,287 images
    return config
