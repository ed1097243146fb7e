"""Seven bottlenecks on CIFAR-10: one backbone, one data set, as many steps.

    python -m train.compare --config configs/compare_cifar10.py --workdir runs/compare_cifar10

The run of `vqvae_cifar10`, and the same with each of the other bottlenecks, as `compare_digits`
says, for 1,000 steps with three seeds each. At each of 8x8 positions the decoder reads 64 numbers,
of "fsq" 3 of 8 levels each: 512 codes as well. The three with a KL have a likelihood of variance
0.0035: an error of 24.6 dB, about the VQ-VAE's. "sparse" is the run of `scvae_cifar10`, "capsules"
that of `cvvae_cifar10`.
"""

from ml_collections import ConfigDict

from configs import cvvae_cifar10, scvae_cifar10, vqvae_cifar10
from configs.compare_digits import seven


def get_config() -> ConfigDict:
    config = ConfigDict({"name": "compare_cifar10", "seeds": (0, 1, 2)})
    vq = vqvae_cifar10.get_config()
    vq.train.steps = 1000
    config.runs = seven(
        vq,
        variance=0.0035,
        levels=(8, 8, 8),
        sparse=scvae_cifar10.get_config().model.bottleneck,
        capsules=cvvae_cifar10.get_config().model.bottleneck,
        torus=(8, 8),
        partitions=(16, 16, 16, 16),
    )
    config.runs.vae.name, config.runs.sparse.name = "vae_like_vqvae_cifar10", "scvae_cifar10"
    config.runs.capsules.name = "cvvae_cifar10"
    return config
