"""Gaussian VAE on binarised MNIST: the one-layer network of Burda et al. 2016, section 5.

    python -m train --config configs/vae_mnist.py --workdir runs/vae_mnist

2 CPU cores shared with other work: 63 minutes, 27 of them for the 5000 draws of the final
evaluation. Test split: 89.28 nats with 5000 draws, ELBO -92.80, 14 active units.

784 - 200 - 200 - 50 - 200 - 200 - 784 with tanh, pixels binarised anew each time they are seen.
Burda et al. give 86.76 nats (5000 draws) and 19 active units after 3,280 passes over the data.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.name = "vae_mnist"
    config.model.image_shape = (28, 28, 1)
    config.model.backbone = ConfigDict({"name": "mlp", "widths": (200, 200), "activation": "tanh"})
    config.model.bottleneck = ConfigDict({"name": "gaussian", "depth": 50})
    config.model.likelihood = ConfigDict({"name": "bernoulli"})
    config.loss_weights = ConfigDict({"reconstruction": 1.0, "kl": 1.0})
    config.data.source = "tfds:mnist"
    config.data.binarise = "stochastic"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.train.steps = 240_000  # 400 passes over the 60,000 images
    config.train.batch_size = 100
    config.train.steps_per_call = 20
    config.train.average_decay = 0.999
    config.evaluation.evaluators = ("losses", "image", "units")
    config.evaluation.final_evaluators = ("importance",)
    config.evaluation.importance_samples = 5000
    config.evaluation.batch_size = 200
    config.evaluation.every = 24_000
    config.log_every = 1200
    config.checkpoint_every = 6000
    return config
