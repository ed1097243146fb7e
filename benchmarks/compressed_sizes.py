"""Images as files of codes, under each prior, beside JPEG and WebP at equal PSNR.

    python benchmarks/compressed_sizes.py --workdir runs/pixelcnn_digits --limit 20
    python benchmarks/compressed_sizes.py --workdir runs/pixelcnn_photos128 --images BSDS500

The first test images of the run whose codes the prior is of, or the images of a folder, each scaled
to cover the model's size and cropped in the middle. Every file is decoded again, and must give the
picture that its codes gave. Printed are means over the images, in bits of an image.
"""

import argparse
import math
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from models.likelihoods import to_unit
from train import compress, latents
from train.compressed_files import OVERHEAD, PRIORS, pack
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
    codecs = {prior: compress.load_codec(options.workdir, prior=prior) for prior in PRIORS}
    run = codecs["trained"].run
    images = images_of(run, options.images, options.limit)
    code = latents.encode(run, images[:1])
    # One at a time, as they are compressed: in a batch the last bits may be others.
    pictures = [latents.decode(run, latents.encode(run, image[None]))[0] for image in images]
    pictures = [compress.picture(each) for each in pictures]
    psnr = [compress.decibels(*pair) for pair in zip(pictures, images, strict=True)]
    print(f"{len(images)} images of {images.shape[1]} x {images.shape[2]}: {np.mean(psnr):.2f} dB")
    nominal = code.size * math.log2(run.model.bottleneck.codes)
    print(f"bits of an image, nominal {nominal:.0f}")
    print(f"{'':>10} {'-log2 p':>9} {'coded':>9} {'file':>9}")
    for name, codec in codecs.items():
        rows = []
        for image, picture in zip(images, pictures, strict=True):
            packed, bits = compress.compress(codec, image)
            if not np.array_equal(compress.decompress(codec, packed, name), picture):
                raise AssertionError(f"{name}: a file gives another picture than its codes")
            rows.append([bits, 8 * len(packed.payload), 8 * len(pack(packed))])
        each = np.mean(rows, axis=0)
        print(f"{name:>10} {each[0]:>9.1f} {each[1]:>9.0f} {each[2]:>9.0f}")
    for kind in ("JPEG", "WEBP"):
        sizes = [
            compress.size_as_good(image, at_least, kind)
            for image, at_least in zip(images, psnr, strict=True)
        ]
        found = [8 * size for size in sizes if size]
        print(f"{kind:>10} {'':>9} {'':>9} {np.mean(found):>9.0f}  as good for {len(found)}")
    print(f"file: with {OVERHEAD} bytes of header and checksums; JPEG and WebP: the smallest files")
    print("whose PSNR is no lower, of those images for which there is one")


if __name__ == "__main__":
    main()
