"""The directions of attributes that `keras-glow demo` has sliders for.

    python experiments/attributes.py faces32_train.npz \
        --out weights/faces32_attributes.npz

Encodes all faces, and takes for each attribute the mean latent of those with
it minus that of those without, made orthogonal to the same of all others in
the list (`keras_glow.latent.attribute_direction`): a slider moves less of what
the other sliders are for. The file holds the names and these few vectors,
sums over thousands of faces, and nothing of a single one.

Then 32 drawn faces are edited along each, and the network of
`weights/face_features.keras` says which have the attribute. `--judge` does this
alone, with the file that is there.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from edits import read
from feature_network import WEIGHTS

import keras_glow
from keras_glow.cli.demo import read_directions, write_directions
from keras_glow.latent import apply_direction, attribute_direction

ATTRIBUTES = (
    *("Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Wearing_Hat"),
    *("Bangs", "Blond_Hair", "Young", "Male"),
)
STRENGTH = 3.0


def judge(model, directions, names):
    """Prints what the attribute network sees in drawn faces, edited.

    Args:
        model: a `Glow`.
        directions: dict of names to directions `(D,)`.
        names: list of str, the attributes that the network knows, in order.
    """
    network = keras.saving.load_model(WEIGHTS, compile=False)
    faces = model.sample(32, temperature=0.7, seed=21)
    before = network.predict(faces, verbose=0) > 0
    for name, direction in directions.items():
        edited = apply_direction(model, faces, direction, STRENGTH)
        after = network.predict(edited, verbose=0) > 0
        column = names.index(name)
        without = ~before[:, column]
        gained = np.sum(after[without, column])
        print(
            f"{name}: length {np.linalg.norm(direction):.2f}; at strength "
            f"{STRENGTH:g} seen in {gained} of {np.sum(without)} drawn faces "
            "that had been without it"
        )


def main():
    """Writes the file unless told not to, and judges it."""
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
    add("--judge", action="store_true", help="only, what --out holds")
    options = parser.parse_args()
    model = keras_glow.Glow.from_preset(options.model)
    images, labels, names = read(options.train)
    if options.judge:
        found = read_directions(options.out, model.dimensions)
        return judge(model, found, names)
    images, labels = images[: options.encoded], labels[: options.encoded]
    labels = labels[:, [names.index(name) for name in options.attributes]]
    z = model.encode(images, batch_size=64)
    found = {
        name: attribute_direction(z, labels[:, i], np.delete(labels, i, axis=1))
        for i, name in enumerate(options.attributes)
    }
    write_directions(options.out, found)
    judge(model, found, names)


if __name__ == "__main__":
    main()
