"""PartitionVAE on MNIST, as described in its write-up (2022), section 4.

    python -m train --config configs/partition_vae_mnist.py --workdir runs/partition_vae_mnist

2 CPU cores shared with other work: 4 minutes for 5 of the 25 epochs, by
`--config.train.steps=4690`. Test split after these: normalised error 0.418 (the mean image: 0.711),
mean squared error 0.0397, 2.4 times the floor of 0.0164 under copied pixels, KL 21.6 nats.

The write-up shows pictures and gives no figure. 10 units in partitions of 4, 3 and 3, subresolution
2, 25 epochs. The loss is the paper's, 100 MSE and a KL that is summed over the batch, stated as an
ELBO in nats: that of a Gaussian likelihood of variance 0.0502 (Adam does not see the factor).

`configs/partition_vae_mnist.py:legacy` is the released code: log variance equal to the mean, and
heads that are never trained; its loss as released. It gives 0.499, and 0.0473.
"""

from ml_collections import ConfigDict

from configs import base

MODES = ("described", "legacy")


def get_config(mode: str = "described") -> ConfigDict:
    if mode not in MODES:
        raise ValueError(f"partition_vae_mnist has no variant {mode!r}; known: {', '.join(MODES)}")
    size = {"image_shape": (28, 28, 1), "batch_size": 64, "subresolution": 2}
    config = base.get_config()
    config.name = "partition_vae_mnist"
    config.model.image_shape = size["image_shape"]
    config.model.data_variance = 0.0949304  # of the training images
    config.model.backbone = base.partition_network(subresolution=size["subresolution"])
    config.model.bottleneck = base.partitioned_latent(partitions=(4, 3, 3), mode=mode)
    if mode == "legacy":
        config.model.likelihood = ConfigDict({"name": "gaussian", "variance": 1.0})
        config.loss_weights = base.partition_weights(**size)
    else:
        config.model.likelihood = ConfigDict(
            {"name": "gaussian", "variance": base.partition_variance(**size)}
        )
        config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "tfds:mnist"
    config.data.noise = 0.01
    config.optimizer.learning_rate = 2.5e-4
    config.train.steps = 23_438  # 25 epochs
    config.train.batch_size = size["batch_size"]
    config.evaluation.evaluators = ("losses", "image", "subresolution", "units")
    config.evaluation.every = 4688
    config.log_every = 100
    config.checkpoint_every = 1000
    return config
