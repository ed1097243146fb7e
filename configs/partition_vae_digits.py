"""PartitionVAE on the 8x8 digits of scikit-learn.

    python -m train --config configs/partition_vae_digits.py --workdir runs/partition_vae_digits
    python -m train.partitions --workdir runs/partition_vae_digits

2 CPU cores shared with other work: about a minute. Test split: normalised error 0.154 (the mean
image: 0.520), ELBO 18.6 nats (of a density), KL 12.0 in 10 units. The second command draws what
each partition does.

10 units in partitions of 4, 3 and 3, heads with ReLU, full resolution: 8x8 pixels leave nothing to
save. The ELBO of a Gaussian likelihood of variance 0.02.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "partition_vae_digits"
    config.model.image_shape = (8, 8, 1)
    config.model.backbone = base.partition_network(
        subresolution=1, convs=((3, 32),), decoder_convs=((3, 8),), activation="relu"
    )
    config.model.bottleneck = base.partitioned_latent(partitions=(4, 3, 3), head_activation="relu")
    config.model.likelihood = ConfigDict({"name": "gaussian", "variance": 0.02})
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "digits"
    config.data.holdout = 0.2
    config.data.noise = 0.01
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 3000
    config.train.batch_size = 64
    config.evaluation.evaluators = ("losses", "image", "units")
    config.evaluation.every = 1000
    config.log_every = 50
    config.checkpoint_every = 500
    return config
