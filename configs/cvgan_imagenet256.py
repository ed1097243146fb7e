"""CVGAN on ImageNet at 256x256: VQGAN's networks and adversary around a capsule layer.

    python -m train --config configs/cvgan_imagenet256.py --workdir gs://BUCKET/cvgan_imagenet256

Meant for GPUs or a TPU slice; not run by us, and the authors' figures are not known to us.

At each of 16x16 positions 16 capsules of 16 numbers are routed to 32 of 16, by agreement and with
trained weights: our reading of the paper. `configs/cvgan_imagenet256.py:published` has the layer as
released, at the random start that nothing trains there, with 2,592 numbers for an image. Batch 8
and rate are the release's; its loss file is not whole, and here it is VQGAN's, to which a
perceptual loss is added as in `vqgan_imagenet256`. How many steps it was trained is not known to
us. Prepare `imagenet2012` with TFDS first (see the README), or use a folder:
`--config.data.source=folder:PATH --config.data.holdout=0.02`.
"""

from ml_collections import ConfigDict

from configs import base
from configs.vqgan_imagenet256 import released

MODES = ("agreement", "published")


def get_config(mode: str = "agreement") -> ConfigDict:
    config = capsules(mode, "cvgan_imagenet256")
    config.data.source = "tfds:imagenet2012"
    config.data.test = "validation"
    config.train.steps = 1_000_000
    return config


def capsules(mode: str, name: str) -> ConfigDict:
    """What CVGAN does on any of its data sets."""
    if mode not in MODES:
        raise ValueError(f"{name} has no variant {mode!r}; known: {', '.join(MODES)}")
    config = base.get_config()
    config.name = name
    released(config, batch_size=8)
    config.model.bottleneck = base.capsules(primaries=16, pose=16, outputs=32, depth=16)
    if mode == "published":
        config.model.bottleneck = base.released_capsules()
    config.adversary.start = 250_001
    return config
