"""The directions of attributes that `keras-glow demo` has sliders for.

    python experiments/attributes.py faces32_train.npz \
        --out weights/faces32_attributes.npz

Encodes all faces, and takes for each attribute the mean latent of those with
it minus that of those without, made orthogonal to the same of all others in
the list (`keras_glow.latent.attribute_direction`): a slider moves less of what
the other sliders are for. The file holds the names and these few vectors,
sums over thousands of faces, and nothing of a single one.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from edits import read

import keras_glow
from keras_glow.demo.directions import write_directions
from keras_glow.latent import attribute_direction

ATTRIBUTES = (
    *("Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Wearing_Hat"),
    *("Bangs", "Blond_Hair", "Young", "Male"),
)


def main():
    """Writes the file, and prints the length of each direction."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("train", help=".npz with images, attributes and attribute_names")
    add("--model", default="faces32", help="name of a preset")
    add("--out", default="weights/faces32_attributes.npz")
    add("--attributes", nargs="+", default=ATTRIBUTES)
    add("--encoded", type=int, help="faces; default: all")
    options = parser.parse_args()
    model = keras_glow.Glow.from_preset(options.model)
    images, labels, names = read(options.train)
    images, labels = images[: options.encoded], labels[: options.encoded]
    labels = labels[:, [names.index(name) for name in options.attributes]]
    z = model.encode(images, batch_size=64)
    found = {
        name: attribute_direction(z, labels[:, i], np.delete(labels, i, axis=1))
        for i, name in enumerate(options.attributes)
    }
    write_directions(options.out, found)
    for name, direction in found.items():
        print(f"{name}: length {np.linalg.norm(direction):.2f}")


if __name__ == "__main__":
    main()
