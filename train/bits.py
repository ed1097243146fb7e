"""Bits per dimension of a discrete bottleneck with its prior: `python -m train.bits --workdir P`.

log p(x) >= log p(x | z_q(x)) + log p(z_q(x)) (van den Oord et al. 2017, section 3.2), with the
trained prior, with independent codes at their frequencies in training, and with a uniform prior.
"""

import json
import math

from absl import flags

from train import cli, parallel, runs
from train.data.codes import check_encoder, encoder_of
from train.data.sources import load_source
from train.data.transforms import make_transform
from train.errors import UserError
from train.evaluate import make_evaluation, measure_baselines
from train.writers import write_whole


def nats_of_parts(workdir: str) -> dict[str, float]:
    """Mean nats per example of the test split: "reconstruction", "trained", "unigram", "uniform".

    -log p(x | z_q(x)) of the run whose codes the prior in `workdir` is of, and -log p(z_q(x)) by
    the three priors.

    Raises:
      UserError: there is no prior over another run's codes, or its encoder has moved on.
    """
    prior = runs.load(workdir)
    place = encoder_of(prior.config.data)
    if not prior.config.model.prior or not place:
        raise UserError(
            f"{workdir} holds no prior over the codes of another run; name one that does (the "
            "bits_per_code of a prior over pixels are its bits/dim)"
        )
    data = prior.config.data
    if (data.test, data.limit) != ("test", 0):
        raise UserError(
            f"the prior has data.test={data.test!r} and data.limit={data.limit}; the bits of the "
            "whole model are of all test images, so these must be 'test' and 0"
        )
    check_encoder(place, data.encoder_checksum)
    run = runs.load(place)
    source, transform = load_source(data, "train"), make_transform(data, "train")
    baselines = measure_baselines(prior.config, source, transform)
    found = {}
    for one, others in ((run, None), (prior, baselines)):
        model = runs.build_model(one.config, axis_name=parallel.AXIS)
        evaluate = make_evaluation(one.config, model, names=("losses",), baselines=others)
        found.update(evaluate(one.variables).values)
    return {
        "reconstruction": found["reconstruction"],
        "trained": found["nats"],
        "unigram": found["unigram/nats"],
        "uniform": found["uniform/nats"],
    }


def main(_: list[str]) -> None:
    """Prints the table and writes it to bits.json."""
    workdir = flags.FLAGS.workdir
    nats = nats_of_parts(workdir)
    if not parallel.is_first_process():
        return
    config = runs.read_config(encoder_of(runs.read_config(workdir).data))
    dims = math.prod(config.model.image_shape) * max(config.data.frames, 1)
    reconstruction = nats.pop("reconstruction")
    rows = {"-log p(x | z)": reconstruction}
    for name, value in nats.items():
        rows[f"-log p(z), {name}"] = value
    for name, value in nats.items():
        rows[f"-log p(x | z) p(z), {name}"] = reconstruction + value
    bits = {name: value / (dims * math.log(2)) for name, value in rows.items()}
    discrete = runs.build_model(config).likelihood.discrete
    content = {"nats": rows, "bits_per_dim": bits, "density": not discrete}
    write_whole(runs.folder(workdir) / "bits.json", json.dumps(content, indent=2) + "\n")
    print(f"{'':30}{'nats':>10}{'bits/dim':>12}")
    for name, value in rows.items():
        print(f"{name:30}{value:>10.3f}{bits[name]:>12.4f}")
    if not discrete:
        print(
            f"p(x | z) is a density over [0, 1] units ({config.model.likelihood.name}): the sums "
            "are bounds of a density too, and no length of a coded image"
        )


if __name__ == "__main__":
    cli.define_workdir("folder of a prior over another run's codes")
    cli.run(main)
