"""Routed capsules beside a codebook, adversarially trained: CVGAN against VQGAN on photographs.

    python -m train.compare --config configs/compare_capsules_photos.py --workdir \
        runs/compare_capsules_photos

The runs are those of `vqgan_photos` and `cvgan_photos`, with three seeds each: one network, one
data set, one adversary that starts in the middle of as many steps, measured every 250 of them.
"""

from ml_collections import ConfigDict

from configs import cvgan_photos, vqgan_photos
from configs.compare_capsules_cifar10 import CURVES


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "compare_capsules_photos", "seeds": (0, 1, 2)})
    config.curves = CURVES
    config.runs = ConfigDict(
        {"vqgan": vqgan_photos.get_config(), "cvgan": cvgan_photos.get_config()}
    )
    for run in config.runs.values():
        run.train.steps = 2000
        run.adversary.start = 1000
        run.evaluation.every = 250
        run.log_every = 50
    return config
