"""PartitionVAE on the table tennis of Sports10, as described in its write-up (2022).

    python -m train --config configs/partition_vae_sports10.py --workdir runs/partition_vae_sports10

Needs the user's own copy of Sports10 (Trivedi et al. 2021, https://arxiv.org/abs/2106.10060), whose
images of table tennis are to lie in `sports10/table_tennis`, or anywhere with
`--config.data.source=folder:PATH`; not run by us, who have none. The write-up gives pictures, and a
plot of a loss that is not comparable, and no figure to expect.

About 1,000 images, 160x90 and grey, a tenth of them for validation; 20 units in partitions of 5, 5,
4, 3, 2 and 1; 50 epochs. Layers, subresolution and optimiser are not stated and are here those of
MNIST. The paper's loss on so many pixels is that of a Gaussian of variance 0.92, which weighs the
KL so much that what moves in a few pixels (players, ball) does not pay for its code.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    size = {"image_shape": (90, 160, 1), "batch_size": 64, "subresolution": 2}
    config = base.get_config()
    config.name = "partition_vae_sports10"
    config.model.image_shape = size["image_shape"]
    config.model.backbone = base.partition_network(subresolution=size["subresolution"])
    config.model.bottleneck = base.partitioned_latent(partitions=(5, 5, 4, 3, 2, 1))
    config.model.likelihood = ConfigDict(
        {"name": "gaussian", "variance": base.partition_variance(**size)}
    )
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "folder:sports10/table_tennis"
    config.data.holdout = 0.1
    config.data.crop = "resize"
    config.data.noise = 0.01
    config.optimizer.learning_rate = 2.5e-4
    config.train.steps = 704  # 50 epochs of 900 images
    config.train.batch_size = size["batch_size"]
    config.evaluation.evaluators = ("losses", "image", "subresolution", "units")
    config.evaluation.every = 176
    config.log_every = 22
    config.checkpoint_every = 176
    return config
