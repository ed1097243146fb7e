"""Images as files of codes, under each prior, beside JPEG and WebP at equal PSNR.

    python benchmarks/compressed_sizes.py --workdir runs/pixelcnn_digits --limit 20
    python benchmarks/compressed_sizes.py --workdir runs/pixelcnn_photos128 --images BSDS500

The first test images of the run whose codes the prior is of, or the images of a folder, each scaled
to cover the model's size and cropped in the middle. Every file is decoded again, and must give the
picture that its codes gave. Printed are means over the images, in bits of an image.
"""

import argparse
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from models.likelihoods import to_unit
from train import compress, latents
from train.compressed_files import OVERHEAD, PRIORS
from train.data.sources import load_source
from train.data.transforms import make_transform


def images_of(run: latents.Run, folder: str, limit: int) -> np.ndarray:
    """Images uint8 `[n, height, width, channels]`; of the run's test split without a folder."""
    if not folder:
        return compress.picture(np.asarray(to_unit(run.images(limit=limit))))
    data = {**run.config.data, "source": f"folder:{folder}", "crop": "resize", "holdout": 0.0}
    source, transform = load_source(data, "train"), make_transform(data, "test")
    random = np.random.default_rng(0)
    chosen = range(len(source))[: limit or None]
    return np.stack([transform(source[i], random)["image"] for i in chosen])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of a prior over codes")
    parser.add_argument("--images", default="", help="a folder of images")
    parser.add_argument("--limit", type=int, default=0, help="at most so many; 0: all")
    options = parser.parse_args()
    for prior in PRIORS:
        codec = compress.load_codec(options.workdir, prior=prior)
        rows = []
        for image in images_of(codec.run, options.images, options.limit):
            _, sizes, decoded = compress.measure(codec, image, prior)
            of_codes = latents.decode(codec.run, latents.encode(codec.run, image[None]))[0]
            if not np.array_equal(decoded, compress.picture(of_codes)):
                raise AssertionError(f"{prior}: a file gives another picture than its codes")
            rows.append(sizes)
        means = compress.Sizes(*np.nanmean(rows, axis=0))
        print(f"{prior}, {len(rows)} images: " + ", ".join(map(_figure, means._fields, means)))
    print(f"bits of an image; file: with {OVERHEAD} bytes of header and checksums; JPEG and WebP:")
    print("the smallest files whose PSNR is no lower, of images for which there is one")


def _figure(name: str, value: float) -> str:
    return f"{name} {value:.1f}"


if __name__ == "__main__":
    main()
