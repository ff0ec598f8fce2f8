"""Keras callbacks: samples, history and checkpoints while a Glow trains."""

import contextlib
import pathlib
import warnings

import keras
import numpy as np

from keras_glow.checkpoint import Progress, save_checkpoint
from keras_glow.ema import averaged_weights
from keras_glow.images import save_grid
from keras_glow.saving import check_writable, whole_file


class SampleGrid(keras.callbacks.Callback):
    """Writes a PNG of samples every few epochs: `epoch_0010.png`.

    The latents are the same each time, so the pictures show one set of images
    coming into being: a row for each temperature, a column for each latent.
    With `use_ema=True` the averaged weights draw them. A picture that cannot be
    drawn or written is no error: it warns.

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
        path = self.directory / f"epoch_{number:04d}.png"
        with _warned(path):
            self._draw(path)

    def _draw(self, path):
        with averaged_weights(self.model):
            rows = [
                self.model.sample(self.count, temperature, self.seed)
                for temperature in self.temperatures
            ]
        with whole_file(path) as partial:
            save_grid(np.concatenate(rows), partial, columns=self.count)


class HistoryFile(keras.callbacks.CSVLogger):
    """A `keras.callbacks.CSVLogger` that a full disk does not end.

    It warns, and the rows that could not be written follow once they can be.
    """

    def on_epoch_end(self, epoch, logs=None):
        with _warned(self.filename):
            super().on_epoch_end(epoch, logs)


class Checkpoint(keras.callbacks.Callback):
    """Saves a checkpoint at the end of every epoch, whole or not at all.

    The file holds the raw weights, with the averages in the optimiser. To go on
    exactly where it was, train on an `ImageSequence`, which keeps its order:

    ```python
    model, progress = keras_glow.checkpoint.load_checkpoint(path)
    model.fit(
        ImageSequence(images, epoch=progress.epoch, batch=progress.batch),
        initial_epoch=progress.epoch,
        epochs=...,
        callbacks=[Checkpoint(path, progress=progress)],
    )
    ```

    A place that cannot be written to is an error before the first batch. A disk
    that is full later does not end the training before the third epoch in a row
    that could not be saved; until then it warns.

    Args:
        path: the `.keras` file; the one before is kept beside it, as
            `<name>.previous.keras`.
        settings: dict of plain values to keep in the file.
        progress: the `keras_glow.checkpoint.Progress` that this `fit` goes on
            from, or None for a new training. From the middle of an epoch, `fit`
            has to end with that epoch, since its first one is shorter.

    Attributes:
        stop: set it to True, from another thread or a signal handler, to save
            after the batch at work (or the validation) and to end `fit` by a
            KeyboardInterrupt.

    Raises:
        OSError: if the file cannot be written. The files before stay.
        FloatingPointError: if a weight is not finite. Likewise.
    """

    def __init__(self, path, settings=None, progress=None):
        super().__init__()
        self.path = pathlib.Path(path)
        self.settings = settings
        self.progress = progress
        self.stop = False
        self.failures = 0

    def on_train_begin(self, logs=None):
        check_writable(self.path)
        self.epoch, self.batch, *_ = self.progress or Progress()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.batch = epoch, 0
        if self.progress is not None:
            # Keras has just set the metrics to zero: an epoch that goes on has
            # to go on with what it had gathered.
            self.batch = self.progress.batch
            if self.batch:
                for variable, value in zip(
                    self.model.metrics_variables,
                    self.progress.metrics,
                    strict=True,
                ):
                    variable.assign(value)
            self.progress = None
        if self.stop:
            self._save()
            self._leave()

    def on_train_batch_end(self, batch, logs=None):
        self.batch += 1
        if self.stop and batch + 1 < self.params["steps"]:
            self._save()
            self._leave()

    def on_epoch_end(self, epoch, logs=None):
        # A stop waits for the other callbacks to have had this epoch too.
        self.epoch, self.batch = epoch + 1, 0
        try:
            self._save()
            self.failures = 0
        except OSError as error:
            self.failures += 1
            if self.failures == 3 or self.stop:
                raise
            _warn(error)

    def on_train_end(self, logs=None):
        if self.stop:
            self._leave()

    def _save(self):
        save_checkpoint(
            self.model, self.path, self.epoch, self.batch, self.settings
        )

    def _leave(self):
        raise KeyboardInterrupt(
            f"{self.path} holds {self.epoch} epochs and {self.batch} batches"
        )


@contextlib.contextmanager
def _warned(path):
    """Turns a failure to write a file that training can do without into words.

    ValueError is that of samples that are not finite.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        _warn(error if str(path) in str(error) else f"{path}: {error}")


def _warn(error):
    warnings.warn(f"{error}. Training goes on", stacklevel=3)
