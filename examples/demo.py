"""The main job in a minute or two: sample, train, save, reload, score.

First it draws faces from the model that comes with the package. Then it trains
a small Glow on the 1,797 handwritten digits that scikit-learn ships (8x8
pixels, 16 grey levels, hence 4 bits). The model and the pictures go into the
folder `demo`: `make demo`.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Faster convolutions, where TensorFlow would leave them out.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_glow

FOLDER = pathlib.Path("demo")
TEMPERATURES = (0.0, 0.5, 0.7, 1.0)
EPOCHS = 60
BATCH_SIZE = 32


def load_images():
    """Digits as uint8 images of 16 grey levels; the last 300 are to test."""
    images = np.minimum(load_digits().images, 15).astype("uint8") * 16
    return images[:-300, :, :, None], images[-300:, :, :, None]


def enlarge(images, factor):
    """Repeats pixels, so that 8x8 images can be seen."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def save_samples(model, count, factor, path):
    """A picture of samples, a row for each temperature."""
    rows = [
        model.sample(count, temperature, seed=1) for temperature in TEMPERATURES
    ]
    images = enlarge(np.concatenate(rows), factor)
    keras_glow.images.save_grid(images, path, columns=count)
    print(f"samples at temperature {TEMPERATURES}, a row each: {path}")


def main():
    """Runs the demo."""
    faces = keras_glow.Glow.from_preset("faces32")
    save_samples(faces, 12, 2, FOLDER / "faces.png")

    train, test = load_images()
    model = keras_glow.Glow(
        (8, 8, 1), levels=2, depth=8, width=64, bits=4, seed=0
    )
    schedule = keras_glow.schedules.warmup(4e-3, 200)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1e3))
    before = model.bits_per_dim(test, seed=0).mean()
    model.fit(
        train,
        validation_data=(test, None),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        callbacks=[
            # So few digits are soon learned by heart: keep the best epoch.
            keras.callbacks.EarlyStopping(
                "val_bits_per_dim",
                mode="min",
                patience=8,
                restore_best_weights=True,
            )
        ],
    )

    FOLDER.mkdir(exist_ok=True)
    model.save(FOLDER / "digits.keras")
    model = keras.saving.load_model(FOLDER / "digits.keras")
    after = model.bits_per_dim(test, seed=0).mean()
    print(f"bits/dim of {len(test)} test digits, of at most {model.bits}:")
    print(f"  before training {before:.3f}, reloaded after it {after:.3f}")
    exact = np.array_equal(model.decode(model.encode(test)), test)
    print(f"decode(encode(images)) == images, every pixel: {exact}")

    save_samples(model, 16, 4, FOLDER / "digits.png")


if __name__ == "__main__":
    main()
