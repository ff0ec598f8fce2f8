"""Keras callbacks: samples, history and checkpoints while a Glow trains."""

import contextlib
import math
import os
import pathlib
import time
import typing
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import numpy.typing as npt

from keras_glow.analysis import probes
from keras_glow.backend.keras_internals import synchronize
from keras_glow.checks import (
    check_integer,
    check_positive,
    check_seed,
    refuse,
)
from keras_glow.files.atomic import atomic_file, check_writable
from keras_glow.flow.noise import standard_deviations
from keras_glow.images import save_grid
from keras_glow.schedules import warmup_cosine
from keras_glow.training.checkpoint import Progress, save_checkpoint


class SampleGrid(keras.callbacks.Callback):
    """Writes a PNG of samples every few epochs: `epoch_0010.png`.

    The latents are the same each time, so the pictures show one set of images
    coming into being: a row for each temperature, a column for each latent.
    With `use_ema=True` the averaged weights draw them. Samples that are not
    finite and a file that cannot be written are no error: they warn.

    Args:
        directory: where to write; it is made if it is missing.
        every: int >= 1, epochs from one picture to the next; the last epoch
            always has one.
        count: int >= 1, images in a row.
        temperatures: a row for each.
        seed: int 0..2**32 - 1, for the latents.
        scale: int >= 1, how many pixels high and wide each pixel becomes.
        context: array `(count, *context_shape)`, or `context_shape` for all, of
            a model with a context.

    Raises:
        ValueError: naming the argument that is not as described.
            Temperatures and context are checked when training begins.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: int = 1,
        count: int = 8,
        temperatures: Sequence[float | Sequence[float]] = (0.5, 0.7, 1.0),
        seed: int = 0,
        scale: int = 1,
        context: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__()
        self.context = context
        self.directory = pathlib.Path(directory)
        self.every = check_integer("every", every, 1)
        self.count = check_integer("count", count, 1)
        self.temperatures = temperatures
        self.seed = check_seed(seed, or_none=False)
        self.scale = check_integer("scale", scale, 1)

    def on_train_begin(self, logs=None):
        # The temperatures are checked before the first epoch, not after it.
        if not np.ndim(self.temperatures):
            refuse("temperatures", "a sequence", self.temperatures)
        for temperature in self.temperatures:
            standard_deviations(temperature, self.model.latent_shapes)
        conditions = self.model.conditions._replace(num_classes=None)
        conditions.check_each_or_one(None, self.context, self.count)
        self.directory.mkdir(parents=True, exist_ok=True)

    def on_epoch_end(self, epoch, logs=None):
        number = epoch + 1
        if number % self.every and number != self.params["epochs"]:
            return
        path = self.directory / f"epoch_{number:04d}.png"
        with warned(path), atomic_file(path) as partial:
            rows = [
                self.model.sample(
                    self.count, temperature, self.seed, context=self.context
                )
                for temperature in self.temperatures
            ]
            images = probes.to_show(self.model, np.concatenate(rows))
            save_grid(images, partial, columns=self.count, scale=self.scale)


class HistoryFile(keras.callbacks.CSVLogger):
    """A `keras.callbacks.CSVLogger` that a full disk does not end.

    It warns, and writes the missing rows as soon as they can be written.
    """

    def on_epoch_end(self, epoch, logs=None):
        with warned(self.filename):
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        with warned(self.filename):
            super().on_train_end(logs)


class TimeBudget(keras.callbacks.Callback):
    """Spreads a learning-rate schedule over a time, then ends the training.

    The rate rises linearly to its highest in the first 3 % of the time and
    falls by half a cosine to 1 % of it. The time runs from the end of the first
    step, since that one compiles, to `minutes` after `fit` began; the last
    validation comes on top. Give `compile` an optimiser whose learning rate is
    a number.

    Args:
        minutes: float > 0, of the whole training.
        learning_rate: float > 0, the highest.
        spent: float >= 0, seconds of an earlier `fit` that this one goes on
            from, as `Progress.seconds` of a checkpoint.

    Attributes:
        clock: function that returns the time in seconds.
        end: time by the clock at which it is over; before `fit`, None.
        over: bool, whether it is.

    Raises:
        ValueError: naming the argument that is not as described.
    """

    WARMUP = 0.03
    STEPS = 10_000  # that a schedule by steps would have
    clock = staticmethod(time.monotonic)

    def __init__(
        self, minutes: float, learning_rate: float, spent: float = 0.0
    ) -> None:
        super().__init__()
        self.seconds = 60 * check_positive("minutes", minutes)
        self.schedule = warmup_cosine(
            check_positive("learning_rate", learning_rate),
            self.STEPS,
            round(self.WARMUP * self.STEPS),
        )
        self.share = min(1.0, spent / self.seconds)  # of the time, when it set
        self.spent, self.end, self.start, self.set = spent, None, None, None

    @property
    def over(self) -> bool:
        if self.end is None:
            return self.share >= 1
        return self.clock() >= self.end

    def on_train_begin(self, logs=None):
        if self.end is None:
            self.end = self.clock() + self.seconds - self.spent

    def on_train_batch_begin(self, batch, logs=None):
        now = self.clock()
        if self.over:
            self.model.stop_training = True  # after this step
        if self.start is None and self.set is not None:
            self.start = now  # the first step is over
        # Setting a weight costs JAX a while, so it is done twice a second.
        if self.set is not None and now - self.set < 0.5:
            return
        self.set = now
        share = self.share
        if self.start is not None:
            left = max(self.end - self.start, 1e-9)
            share += (1 - share) * min(1.0, (now - self.start) / left)
        synchronize(self.model)
        rate = self.schedule(self.STEPS * max(share, 1e-4))
        self.model.optimizer.learning_rate = float(rate)


class Checkpoint(keras.callbacks.Callback):
    """Saves a checkpoint at the end of epochs, whole or not at all.

    It saves the first epoch, the last one, and between them those that end
    `seconds` or more after the latest save.

    With `use_ema=True` the model in it holds the averages that were validated,
    and its optimiser the weights to train on; in the middle of an epoch it is
    the other way round. To resume exactly where training stood, train on an
    `ImageSequence`, which keeps its order:

    ```python
    model, progress = keras_glow.training.checkpoint.load_checkpoint(path)
    model.fit(
        ImageSequence(images, epoch=progress.epoch, batch=progress.batch),
        initial_epoch=progress.epoch,
        epochs=...,
        callbacks=[Checkpoint(path, progress=progress)],
    )
    ```

    A place that cannot be written to is an error before the first batch. If the
    disk is full later, it warns, tries again after the next epoch, and ends the
    training only at the third epoch in a row that could not be saved.

    Put it after callbacks that may end training early, so that it sees the last
    epoch as such.

    Args:
        path: the `.keras` file; the previous one is kept beside it, as
            `<name>.previous.keras`.
        settings: dict of plain values to keep in the file.
        progress: the `keras_glow.training.checkpoint.Progress` from which this
            `fit` continues, or None for a new training. From the middle of an
            epoch, `fit` has to end with that epoch, since its first one is
            shorter.
        seconds: int >= 0; 0 saves every epoch.

    Attributes:
        stop: set it to True, from another thread or a signal handler, to save
            after the current batch (or the validation) and to end `fit` by a
            KeyboardInterrupt.

    Raises:
        ValueError: if `seconds` is not as described.
        OSError: if the file cannot be written. Earlier files stay.
        FloatingPointError: if a weight is not finite. Earlier files stay.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        settings: dict[str, typing.Any] | None = None,
        progress: Progress | None = None,
        seconds: int = 60,
    ) -> None:
        super().__init__()
        self.path = pathlib.Path(path)
        self.settings = settings
        self.progress = progress
        self.start = time.monotonic()
        self.seconds = check_integer("seconds", seconds, 0)
        self.saved = -math.inf  # time of the latest save
        self.stop = False
        self.failures = 0

    def on_train_begin(self, logs=None):
        check_writable(self.path)
        progress = self.progress or Progress()
        self.epoch, self.batch = progress.epoch, progress.batch
        self.start = time.monotonic() - progress.seconds

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        progress, self.progress = self.progress or Progress(), None
        self.first = self.batch = progress.batch
        if progress.batch:
            # Keras has just set the metrics to zero: a resumed epoch has to
            # continue with the values that it had gathered.
            for variable, value in zip(
                self.model.metrics_variables, progress.metrics, strict=True
            ):
                variable.assign(value)
        self._stop_if_asked()

    # At the end of a batch Keras would wait for the device in order to report
    # the loss.
    def on_train_batch_begin(self, batch, logs=None):
        self.batch = self.first + batch
        self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        # A stop waits until the other callbacks have seen this epoch too.
        self.epoch, self.batch = epoch + 1, 0
        if not (
            time.monotonic() - self.saved >= self.seconds
            or self.stop
            or self.epoch == self.params["epochs"]
            or self.model.stop_training
        ):
            return
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
            self.model,
            self.path,
            self.epoch,
            self.batch,
            self.settings,
            time.monotonic() - self.start,
        )
        self.saved = time.monotonic()

    def _stop_if_asked(self):
        if self.stop:
            self._save()
            self._leave()

    def _leave(self):
        raise KeyboardInterrupt(
            f"{self.path} holds {self.epoch} epochs and {self.batch} batches"
        )


class ReconstructionError(keras.callbacks.Callback):
    """Watches whether images still come back exactly from their latents.

    Training moves a flow, and the loss does not see its inverse. At the end of
    every epoch the logs get

    - `reconstruction_error`: the largest `|x - decoder(encoder(x))|` over the
      images, in units of continuous images, which span 1;
    - `reconstruction_error_ood`: the same over images unlike any real ones,
      such as noise and checkerboards, where a flow fails first: see
      `keras_glow.analysis.probes.out_of_distribution_images`.

    Each of them warns once, naming the layer to blame, when it passes half a
    grey level, `0.5 / 2**bits`: from there on pixels change. With
    `use_ema=True` the averaged weights are examined. Weights,
    losses and random states stay as they are. Put it before callbacks that
    read the logs, such as `keras.callbacks.CSVLogger`.

    Args:
        images: validation images, integers 0..255 `(batch, height, width,
            channels)`; or None, to test only on images unlike any real ones.
        labels: int array `(batch,)`, for images of a model with classes.
        count: int >= 1, how many of the images to use, from the first.
        context: array `(batch, *context_shape)`, of a model with a context.

    Raises:
        ValueError: if `count` is not as described; when training begins, if
            the images, labels or context are not what the model takes.
    """

    def __init__(
        self,
        images: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        count: int = 32,
        context: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__()
        self.images = images
        self.labels, self.context = labels, context
        self.given = ()
        self.count = check_integer("count", count, 1)
        self.warned = set()

    def on_train_begin(self, logs=None):
        if self.images is not None:
            images, given = probes.check_inputs(
                self.model, self.images, self.labels, self.context
            )
            self.images = images[: self.count]
            self.given = [array[: self.count] for array in given]

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        unlike = probes.out_of_distribution_images(self.model, self.images)
        if self.images is not None:
            self._look("reconstruction_error", {"images": self.images}, logs)
        self._look("reconstruction_error_ood", unlike, logs)

    def _look(self, name, kinds, logs):
        errors = probes.errors_by_kind(self.model, kinds, self.given)
        # argmax finds the first nan, if there is one.
        kind = list(errors)[np.argmax(list(errors.values()))]
        logs[name] = errors[kind]
        half = probes.half_grey_level(self.model)
        if errors[kind] < half or name in self.warned:
            return
        self.warned.add(name)
        images = kinds[kind]
        given = probes.conditions_for(self.model, len(images), self.given)
        given = dict(zip(self.model.conditions.names(), given, strict=True))
        worst = self.model.diagnose(images, **given).worst_layer
        warnings.warn(
            f"{name} is {errors[kind]:.1e} ({kind}), more than half a grey "
            f"level, {half:.1e}: pixels change. The layer to blame is {worst}",
            stacklevel=2,
        )


@contextlib.contextmanager
def warned(path: str | os.PathLike) -> Iterator[None]:
    """Turns the failure to write a non-essential file into a warning.

    A ValueError comes from samples that are not finite.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        _warn(error if str(path) in str(error) else f"{path}: {error}")


def _warn(error):
    warnings.warn(f"{error}. Training goes on", stacklevel=3)
