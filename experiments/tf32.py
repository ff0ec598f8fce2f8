"""What TensorFloat-32 on a GPU takes from the exactness of a flow.

    KERAS_BACKEND=jax python experiments/tf32.py FACES_VALID.npz

Of a preset, with TensorFloat-32 as a GPU computes by default on JAX and
TensorFlow, and without it, as the flow has it: how many values of images that
are encoded and decoded come back wrong, the largest error before rounding
(half a grey level is 0.002), bits/dim, and how far `log_prob` is from that in
float64, in nats.
"""

import argparse
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from backends import float64_twin

import keras_glow
from keras_glow.images.loading import load_images


def measure(model, images, expected):
    """Values lost, largest error, bits/dim, largest error of `log_prob`."""
    x = model.dequantize(images, seed="center")
    back = model.decoder.predict(model.encoder.predict(x, verbose=0), verbose=0)
    lost = np.count_nonzero(model.quantize(back) != images)
    log_prob = model.log_prob(images, seed=0)
    bits = -np.mean(log_prob) / (model.dimensions * math.log(2))
    return lost, np.abs(back - x).max(), bits, np.abs(log_prob - expected).max()


def main():
    """Prints a row with TensorFloat-32 and one without."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", help="folder or .npz")
    parser.add_argument("--preset", default="faces32")
    parser.add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    model = keras_glow.Glow.from_preset(options.preset)
    size, channels = model.image_shape[0], model.image_shape[2]
    images = load_images(options.images, size, channels)[: options.count]
    expected = float64_twin(model, images)
    print(f"{keras.backend.backend()}: {images.size:,} values")
    print("| TensorFloat-32 | lost | largest error | bits/dim | log_prob |")
    print("|---|---|---|---|---|")
    for allowed in (True, False):
        keras_glow.allow_tf32(allowed)
        lost, error, bits, nats = measure(model, images, expected)
        name = "allowed" if allowed else "off"
        print(f"| {name} | {lost} | {error:.1e} | {bits:.4f} | {nats:.1e} |")


if __name__ == "__main__":
    main()
