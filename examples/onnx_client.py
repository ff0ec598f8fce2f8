"""A client of an exported model: needs no Keras, only onnxruntime and Pillow.

    keras-glow export faces32 --format onnx --out faces32_onnx
    pip install onnxruntime pillow
    python onnx_client.py faces32_onnx score face.png another.jpg
    python onnx_client.py faces32_onnx sample --count 16 --out samples.png

`score` prints bits/dim of each image and whether every pixel of it comes back
from its latents; `sample` draws images. Models with classes or a context take
one more array, which `signature.json` in the folder describes.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Flow:
    """The two halves of an exported model, in the folder of an export."""

    def __init__(self, folder):
        self.signature = json.loads((folder / "signature.json").read_text())
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / self.signature[name]["file"])
            for name in ("encoder", "decoder")
        )

    def shape(self, part, name):
        """Returns the shape of an array without the count of images."""
        return self.signature[part]["inputs"][name]["shape"][1:]

    def encode(self, images):
        """Returns latents `(count, D)` and log-likelihoods in nats."""
        inputs = {"images": images}
        return self.encoder.run(["z", "log_prob"], inputs)

    def decode(self, z, temperature=1.0):
        """Returns the uint8 images of latents that are scaled before."""
        inputs = {"z": z, "temperature": np.array(temperature, "float32")}
        return self.decoder.run(["images"], inputs)[0]


def load(path, shape):
    """Returns an image file as uint8 `(1, height, width, channels)`."""
    height, width, channels = shape
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        return np.asarray(image).reshape(1, *shape)


def score(flow, options):
    """Prints a line for each image."""
    for path in options.images:
        image = load(path, flow.shape("encoder", "images"))
        z, log_prob = flow.encode(image)
        bits = -float(log_prob[0]) / image.size / math.log(2)
        lost = np.sum(flow.decode(z) != image)
        verdict = f"{lost} values lost" if lost else "exact"
        print(f"{path}: {bits:.3f} bits/dim, {verdict}")


def sample(flow, options):
    """Draws images into one picture."""
    rng = np.random.default_rng(options.seed)
    shape = options.count, *flow.shape("decoder", "z")
    z = rng.standard_normal(shape, "float32")
    images = flow.decode(z, options.temperature)
    picture = np.concatenate(images, axis=1)  # side by side
    if picture.shape[-1] == 1:  # Pillow knows grey without an axis for it.
        picture = picture[..., 0]
    Image.fromarray(picture).save(options.out)
    print(options.out)


def main():
    """Reads the options and does what they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("score")
    command.add_argument("images", nargs="+")
    command.set_defaults(run=score)
    command = commands.add_parser("sample")
    command.add_argument("--count", type=int, default=8)
    command.add_argument("--temperature", type=float, default=0.7)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", default="samples.png")
    command.set_defaults(run=sample)
    options = parser.parse_args()
    options.run(Flow(options.folder), options)


if __name__ == "__main__":
    main()
