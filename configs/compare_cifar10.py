"""VAE, VQ-VAE and SC-VAE on CIFAR-10: one backbone, one data set, as many steps.

    python -m train.compare --config configs/compare_cifar10.py --workdir runs/compare_cifar10

The runs are those of `vqvae_cifar10`, the same with a Gaussian bottleneck (64 units at each of 8x8
positions, a likelihood of variance 0.0035: an error of 24.6 dB, about the VQ-VAE's), and
`scvae_cifar10`, for 1,000 steps with three seeds each.
"""

from ml_collections import ConfigDict

from configs import scvae_cifar10, vqvae_cifar10


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "compare_cifar10"
    config.seeds = (0, 1, 2)
    vae = vqvae_cifar10.get_config()
    vae.name = "vae_like_vqvae_cifar10"
    vae.model.bottleneck = ConfigDict({"name": "gaussian", "depth": 64})
    vae.model.likelihood = ConfigDict({"name": "gaussian", "variance": 0.0035})
    vae.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    vae.evaluation.evaluators = ("losses", "image", "units")
    config.runs = ConfigDict(
        {"vae": vae, "vq": vqvae_cifar10.get_config(), "sparse": scvae_cifar10.get_config()}
    )
    for run in config.runs.values():
        run.train.steps = 1000
    return config
