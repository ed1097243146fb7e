"""From files back to images: `python -m train.decompress FILE... --workdir PRIOR --out DIR`."""

from pathlib import Path

from absl import flags
from PIL import Image

from train import cli
from train.compress import decompress, load_codec, new_folder
from train.compressed_files import unpack
from train.errors import UserError


def main(arguments: list[str]) -> None:
    """Writes each file's image as a PNG."""
    paths = arguments[1:]
    if not paths:
        raise UserError("no file is named: python -m train.decompress FILE... --workdir PRIOR")
    files = {}
    for path in paths:
        try:
            files[path] = unpack(Path(path).read_bytes(), path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    kinds = {compressed.prior for compressed in files.values()}
    codecs = {prior: load_codec(flags.FLAGS.workdir, prior=prior) for prior in kinds}
    out = new_folder(flags.FLAGS.out)
    for path, compressed in files.items():
        image = decompress(codecs[compressed.prior], compressed, path)
        written = out / f"{Path(path).stem}.png"
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(written)
        print(written)


if __name__ == "__main__":
    cli.define_workdir("folder of the run that compressed them")
    flags.DEFINE_string("out", "decompressed", "folder of the images to write, NAME.png each")
    cli.run(main, arguments=True)
