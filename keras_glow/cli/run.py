"""A run of training in a folder: what `keras-glow train` does."""

import contextlib
import csv
import hashlib
import math
import pathlib
import signal
import threading

import keras
import numpy as np

from keras_glow.backend.devices import count_shards
from keras_glow.callbacks import Checkpoint, HistoryFile, SampleGrid
from keras_glow.checks import refuse
from keras_glow.data import ImageSequence
from keras_glow.files.atomic import atomic_file, remove_partials
from keras_glow.glow import Glow
from keras_glow.schedules import warmup_cosine
from keras_glow.training.checkpoint import Progress, load_checkpoint
from keras_glow.training.ema import averaged_weights

CHECKPOINT = "checkpoint.keras"
MODEL_SETTINGS = (
    "levels",
    "depth",
    "width",
    "permutation",
    "coupling",
    "bits",
    "seed",
    "network_dtype",
    "num_classes",
    "class_priors",
    "classifier_weight",
)


def is_run(folder):
    """Whether a run has begun in the folder."""
    folder = pathlib.Path(folder)
    return any(
        (folder / name).exists()
        for name in (CHECKPOINT, "history.csv", "model.keras")
    )


def new_model(settings, image_shape, steps):
    """A model that is compiled and not trained.

    Args:
        settings: dict, see `train`.
        image_shape: (height, width, channels).
        steps: int, of the whole training.
    """
    model = Glow(
        image_shape,
        **{name: settings[name] for name in MODEL_SETTINGS if name in settings},
    )
    schedule = warmup_cosine(
        settings["learning_rate"], steps, min(settings["warmup"], steps // 2)
    )
    ema = settings["ema"]
    model.compile(
        keras.optimizers.Adam(
            schedule,
            global_clipnorm=settings["clip"] or None,
            use_ema=ema > 0,
            ema_momentum=ema,
        )
    )
    return model


def resume(folder, settings):
    """The model of a run that was interrupted, and its `Progress`.

    None if it has no checkpoint yet.

    Raises:
        ValueError: if the run in the folder has other settings, or its
            checkpoints cannot be read.
    """
    loaded = load_checkpoint(pathlib.Path(folder) / CHECKPOINT)
    if loaded is None:
        return None
    before = loaded[1].settings
    different = [
        f"{name} (was {before.get(name)}, is {settings.get(name)})"
        for name in sorted({*before, *settings})
        if before.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(
            f"The run in {folder} had other settings: {', '.join(different)}"
        )
    return loaded


def train(
    folder,
    images,
    validation,
    settings,
    callbacks=(),
    labels=None,
    validation_labels=None,
):
    """Trains to the end: a new model, or the one whose checkpoint is there.

    After every epoch it writes `checkpoint.keras`, a row of `history.csv` and,
    under `samples/`, a grid; at the end `model.keras`, with the averaged
    weights if there are any. It can be stopped at any time. SIGINT (Ctrl-C) and
    SIGTERM save a checkpoint after the batch at work before they end it.

    Args:
        folder: of the run; made if it is missing.
        images: uint8 array to train on.
        validation: uint8 array, or None.
        settings: dict of plain values: every option that shapes the run.
        callbacks: Keras callbacks, beside its own.
        labels: int array of classes, one an image, if `settings` has
            `num_classes`.
        validation_labels: likewise, of the validation images.

    Returns:
        The model.

    Raises:
        ValueError: if the run in the folder has other settings or images, or is
            at work in another process.
        OSError: if the folder cannot be written to.
        TrainingDiverged: see `Glow.fit`.
        KeyboardInterrupt: after a signal, naming what was saved.
    """
    folder = pathlib.Path(folder)
    settings = {**settings, "images": fingerprint(images)}
    if labels is not None:
        settings["labels"] = fingerprint(labels)
    checkpoint = Checkpoint(folder / CHECKPOINT, settings)
    images, labels = _shared(images, labels, settings["batch_size"])
    steps = math.ceil(len(images) / settings["batch_size"])
    validation_data = None
    if validation is not None:
        validation_data = _shared(
            validation, validation_labels, settings["batch_size"]
        )
    with locked(folder), stopped_by_signals(checkpoint):
        # Not below: other runs may be at work in folders of their own.
        remove_partials(folder)
        remove_partials(folder / "samples")
        model, progress = resume(folder, settings) or (
            new_model(settings, images.shape[1:], steps * settings["epochs"]),
            Progress(),
        )
        print(f"{model.count_params():,} parameters", flush=True)
        while True:
            # An epoch cut short has fewer batches, and Keras counts them only
            # once in a `fit`: it gets one of its own. At its end `fit` puts
            # averages into the model, so what goes on is the checkpoint.
            end = progress.epoch + 1 if progress.batch else settings["epochs"]
            checkpoint.progress = progress
            _keep_epochs(folder / "history.csv", progress.epoch)
            model.fit(
                ImageSequence(
                    images,
                    labels,
                    batch_size=settings["batch_size"],
                    flip=settings["flip"],
                    seed=settings["seed"],
                    epoch=progress.epoch,
                    batch=progress.batch,
                ),
                epochs=end,
                initial_epoch=progress.epoch,
                validation_data=validation_data,
                validation_batch_size=settings["batch_size"],
                # The checkpoint is last: what a kill keeps from the others in
                # an epoch, the same epoch has to bring once more.
                callbacks=[
                    *callbacks,
                    HistoryFile(folder / "history.csv", append=True),
                    SampleGrid(folder / "samples"),
                    checkpoint,
                ],
            )
            if end == settings["epochs"]:
                break
            model, progress = resume(folder, settings)
        with averaged_weights(model):
            model.save(folder / "model.keras")
    return model


def _shared(images, labels, batch_size):
    """As many of the images as make batches that the devices share evenly."""
    shards = count_shards()
    if batch_size % shards:
        refuse("batch_size", f"a multiple of {shards} devices", batch_size)
    count = len(images) - len(images) % shards
    if not count:
        refuse("images", f"{shards} or more, one for each device", images)
    return images[:count], None if labels is None else labels[:count]


def fingerprint(images):
    """Shape and hash of an array: what tells other images from the same."""
    digest = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
    return f"{' x '.join(map(str, images.shape))}, sha256 {digest[:12]}"


@contextlib.contextmanager
def locked(folder):
    """Makes a folder, and refuses one in which another process is training.

    The lock goes with the process that holds it, however that ends.

    Raises:
        ValueError: if it is locked.
        OSError: if the folder cannot be written to, naming it and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written to: {error.strerror}"
        ) from error
    with file:
        _lock(file, folder)
        yield


def _lock(file, folder):
    try:
        import fcntl
    except ImportError:  # on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"{folder} is in use: another process is training in it"
        ) from None


@contextlib.contextmanager
def stopped_by_signals(checkpoint):
    """SIGINT and SIGTERM save a checkpoint first; a second one does not wait.

    Args:
        checkpoint: the `Checkpoint` callback of every `fit` in this context.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread only.
        return

    def stop(number, frame):
        if checkpoint.stop:
            raise KeyboardInterrupt
        checkpoint.stop = True

    signals = signal.SIGINT, signal.SIGTERM
    handlers = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)


def _keep_epochs(history, epochs):
    """Drops the rows of epochs that the checkpoint does not have."""
    if not history.exists():
        return
    with open(history, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [
        row
        for row in rows
        if len(row) == len(header) and int(row[0]) < epochs  # column `epoch`
    ]
    with (
        atomic_file(history) as partial,
        open(partial, "w", newline="") as file,
    ):
        csv.writer(file).writerows([header, *kept] if header else [])
