"""Routed capsules beside a codebook on CIFAR-10: CV-VAE against VQ-VAE, epoch by epoch.

    python -m train.compare --config configs/compare_capsules_cifar10.py --workdir \
        runs/compare_capsules_cifar10

The runs are those of `vqvae_cifar10` and `cvvae_cifar10`, with three seeds each: one network, one
data set, as many steps. Two epochs of 1,250 steps, measured twice in each on 2,000 images of the
validation split.
"""

from ml_collections import ConfigDict

from configs import cvvae_cifar10, vqvae_cifar10

CURVES = (
    ("PSNR, dB", "psnr", 2),
    ("SSIM", "ssim", 4),
    ("Frechet distance of random features", "frechet_random_features", 4),
)


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "compare_capsules_cifar10", "seeds": (0, 1, 2)})
    config.curves = CURVES
    config.runs = ConfigDict(
        {"vq": vqvae_cifar10.get_config(), "capsules": cvvae_cifar10.get_config()}
    )
    for run in config.runs.values():
        run.train.steps = 2500
        run.data.test = "train[30000:32000]"
        run.evaluation.every = 625
        run.evaluation.evaluators = (*run.evaluation.evaluators, "frechet")
    return config
