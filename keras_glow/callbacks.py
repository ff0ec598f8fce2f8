"""Keras callbacks: sample grids and checkpoints while a Glow trains."""

import pathlib

import keras
import numpy as np

from keras_glow.ema import averaged_weights
from keras_glow.images import save_grid
from keras_glow.saving import save_atomically


class SampleGrid(keras.callbacks.Callback):
    """Writes a PNG of samples every few epochs: `epoch_0010.png`.

    The latents are the same each time, so the pictures show one set of images
    coming into being: a row for each temperature, a column for each latent.
    With `use_ema=True` the averaged weights draw them.

    Args:
        directory: where to; it is made if it is missing.
        every: int >= 1, epochs from one picture to the next; the last epoch
            always has one.
        count: int, images in a row.
        temperatures: a row for each.
        seed: int, of the latents.
    """

    def __init__(
        self,
        directory,
        every=1,
        count=8,
        temperatures=(0.5, 0.7, 1.0),
        seed=0,
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.every = every
        self.count = count
        self.temperatures = temperatures
        self.seed = seed

    def on_epoch_end(self, epoch, logs=None):
        number = epoch + 1
        if number % self.every and number != self.params["epochs"]:
            return
        with averaged_weights(self.model):
            rows = [
                self.model.sample(self.count, temperature, self.seed)
                for temperature in self.temperatures
            ]
        save_grid(
            np.concatenate(rows),
            self.directory / f"epoch_{number:04d}.png",
            columns=self.count,
        )


class Checkpoint(keras.callbacks.Callback):
    """Saves the model with its optimiser at the end of every epoch, atomically.

    The file holds the raw weights, with the averages in the optimiser: loaded
    with `keras.saving.load_model`, `fit` goes on exactly where it was.

    Args:
        path: the `.keras` file, replaced each time.
    """

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        save_atomically(self.model, self.path)
