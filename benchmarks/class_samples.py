"""Whether a digit prior's draws are of the class asked for, by a classifier of real digits.

    python benchmarks/class_samples.py --workdir runs/pixelcnn_digits

A support vector machine is trained on the first 10,000 training images of the data set. It prints
the share that it recognises of the test images, of their reconstructions, and of 50 draws of each
class.
"""

import argparse

import numpy as np
from sklearn.svm import SVC

import train
from models.likelihoods import to_unit
from train import latents, sample
from train.data.codes import encoder_of

DRAWS = 50
TRAINING = 10_000  # images, the first


def units(images):
    """Pixels in [0, 1], whether the images are bytes or not: `[n, pixels]`."""
    return np.asarray(to_unit(images)).reshape(len(images), -1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of a prior with classes")
    parser.add_argument("--temperature", type=float, nargs="+", default=[1.0, 0.7, 0.5])
    options = parser.parse_args()
    prior = train.load(options.workdir)
    run = train.load(encoder_of(prior.config.data))
    real = {split: latents.examples(run, split=split) for split in ("train", "test")}
    flat = {split: units(x["image"]) for split, x in real.items()}
    classifier = SVC().fit(flat["train"][:TRAINING], real["train"]["label"][:TRAINING])
    wanted = real["test"]["label"]
    again = units(latents.reconstruct(run, real["test"]["image"]))
    print(f"test images      {classifier.score(flat['test'], wanted):.3f}")
    print(f"reconstructions  {classifier.score(again, wanted):.3f}")
    classes = range(prior.config.model.prior.classes)
    for temperature in options.temperature:
        drawn = sample.draw_samples(prior, classes, DRAWS, temperature=temperature)
        share = classifier.score(units(drawn["image"]), drawn["label"])
        print(f"draws at {temperature:<7g} {share:.3f}")


if __name__ == "__main__":
    main()
