"""SC-VAE on CIFAR-10, to be compared with `vqvae_cifar10`.

    python -m train --config configs/scvae_cifar10.py --workdir runs/scvae_cifar10

Not run to its end by us; after 1,000 steps see `compare_cifar10` in the README. Network, data,
optimiser, steps and batch are those of `vqvae_cifar10`; an atom is as deep as its codes, and there
are twice as many atoms as an atom has numbers.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "scvae_cifar10"
    config.model.image_shape = (32, 32, 3)
    config.model.data_variance = 0.06327039811675479  # of the training images
    config.model.backbone = base.convnet(widths=(64, 128), last_width=128)
    config.model.bottleneck = base.sparse_coder(depth=64, atoms=128, penalty=0.3)
    config.loss_weights = base.sparse_weights(image_shape=(32, 32, 3))
    config.data.source = "tfds:cifar10"
    config.data.train = "train[:30000]+test"
    config.data.test = "train[30000:40000]"
    config.optimizer.learning_rate = 3e-4
    config.train.steps = 10_000
    config.train.batch_size = 32
    config.evaluation.evaluators = ("losses", "image", "atoms")
    config.evaluation.every = 5000
    config.log_every = 100
    config.checkpoint_every = 500
    return config
