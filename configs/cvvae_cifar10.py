"""CV-VAE on CIFAR-10, to be compared with `vqvae_cifar10`.

    python -m train --config configs/cvvae_cifar10.py --workdir runs/cvvae_cifar10

For a quarter of its steps see "Routed capsules" in the README. Network, data, optimiser, steps and
batch are those of `vqvae_cifar10`. 16 capsules of 4 numbers at each of 8x8 positions: as deep
together as its codes, and 4,096 numbers in all. `configs/cvvae_cifar10.py:published` has CVGAN's
capsule layer as released, at its random start, with 800 numbers; the overrides of `cvvae_digits`
serve here too.
"""

from ml_collections import ConfigDict

from configs import base, vqvae_cifar10

MODES = ("agreement", "published")


def get_config(mode: str = "agreement") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"cvvae_cifar10 has no variant {mode!r}; known: {', '.join(MODES)}")
    config = vqvae_cifar10.get_config()
    config.name = "cvvae_cifar10"
    config.model.bottleneck = base.capsules(primaries=16, pose=8, outputs=16, depth=4)
    if mode == "published":
        config.model.bottleneck = base.released_capsules()
    # Mean squared error over the data's variance.
    config.loss_weights = ConfigDict({"reconstruction": 2 / (32 * 32 * 3)})
    config.evaluation.evaluators = ("losses", "image")
    return config
