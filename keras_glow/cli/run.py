"""A run of training in a folder: the work of `keras-glow train`."""

import contextlib
import csv
import dataclasses
import hashlib
import pathlib
import signal
import threading
import timeit
import zipfile

import keras
import numpy as np
from keras import ops

from keras_glow import backend
from keras_glow.backend.devices import count_shards
from keras_glow.callbacks import Checkpoint, TimeBudget
from keras_glow.checks import refuse
from keras_glow.cli.follow import ProgressOfTraining, written_each_epoch
from keras_glow.cli.inputs import (
    common_size,
    load_model,
    model_file,
)
from keras_glow.cli.settings import LENGTH, READING, Settings
from keras_glow.data import ImageSequence, count_batches
from keras_glow.files.atomic import atomic_file, remove_partials
from keras_glow.files.presets import preset_sha256
from keras_glow.files.strict_reader import read_model
from keras_glow.flow.arguments import ARGUMENTS
from keras_glow.flow.levels import level_depths
from keras_glow.glow import Glow
from keras_glow.layers import AffineCoupling
from keras_glow.schedules import warmup_cosine
from keras_glow.training.checkpoint import (
    Progress,
    load_checkpoint,
    previous_path,
    read_progress,
)
from keras_glow.training.ema import averaged_weights

CHECKPOINT = "checkpoint.keras"


def is_run(folder):
    """Returns whether a run has begun in the folder."""
    names = CHECKPOINT, "history.csv", "model.keras"
    return any((pathlib.Path(folder) / name).exists() for name in names)


def new_model(settings, image_shape, count):
    """Returns a compiled, untrained model for epochs of `count` images."""
    arguments = dataclasses.asdict(settings)
    arguments = {n: arguments[n] for n in ARGUMENTS if n in arguments}
    arguments["image_shape"] = image_shape
    if settings.start:
        model = load_model(settings.start)
        if model.num_classes not in (None, settings.num_classes):
            raise ValueError(
                "--from is expected to be a model without classes or, with "
                f"--classes, of those of the images, {settings.num_classes}. "
                f"Received: {settings.start}, with {model.num_classes}"
            )
        model = model.with_arguments(**arguments)
    else:
        model = Glow(**arguments)
    model.compile(
        keras.optimizers.Adam(
            _schedule(settings, model, count),
            beta_2=settings.beta_2,
            global_clipnorm=settings.clip or None,
            use_ema=settings.ema > 0,
            ema_momentum=settings.ema,
        )
    )
    return model


def _schedule(settings, model, count):
    """Returns the learning rate; a number, for `TimeBudget` to set."""
    if settings.minutes:
        return settings.learning_rate
    steps = settings.epochs * count_batches(
        count, settings.batch_size, model.jit_compile
    )
    return warmup_cosine(
        settings.learning_rate, steps, min(settings.warmup, steps // 2)
    )


def with_quicker_networks(settings, given, images):
    """Returns settings with float32 if bfloat16 is no quicker on this CPU.

    Instructions for bfloat16 are no promise: what a narrow network gains in its
    convolutions it may lose in conversions. So a coupling of the finest level
    is timed in both, unless the user has chosen: `given` has what is wanted.
    """
    chosen = backend.has_gpu() or "network_dtype" in given
    if chosen or settings.network_dtype != "bfloat16":
        return settings
    _, height, width, channels = images.shape
    shape = settings.batch_size, height // 2, width // 2, 4 * channels
    x, seconds = ops.zeros(shape), {}
    for dtype in ("float32", "bfloat16"):
        coupling = AffineCoupling(
            settings.width,
            network=settings.network,
            blocks=settings.blocks,
            network_dtype=dtype,
        )

        def once(coupling=coupling):
            ops.convert_to_numpy(coupling(x, training=True))

        once()  # which builds it
        seconds[dtype] = min(timeit.repeat(once, number=1, repeat=10))
    quicker = min(seconds, key=seconds.get)
    return dataclasses.replace(settings, network_dtype=quicker)


def earlier_settings(folder):
    """Returns the `Settings` of the run in a folder, as far as it has any."""
    path = pathlib.Path(folder) / CHECKPOINT
    for file in (path, previous_path(path)):
        # A damaged file is dealt with when the model is loaded.
        with contextlib.suppress(OSError, ValueError, zipfile.BadZipFile):
            settings = read_progress(file).settings
            fields = {field.name for field in dataclasses.fields(Settings)}
            return Settings(
                **{k: v for k, v in settings.items() if k in fields}
            )
    return Settings()


def started_settings(settings, given):
    """Returns settings with the architecture of the model to start from.

    `given` are those that the user wants: `start`, and such as leave the
    weights their shapes.
    """
    start = given["start"]
    config, _ = read_model(model_file(start), preset_sha256(start))
    names = {field.name for field in dataclasses.fields(settings)}
    free = {"seed", "network_dtype", "dropout", "num_classes"}
    fixed = names.intersection(config) - free
    for name in fixed.intersection(given):
        if not _stays(name, given[name], config):
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} is expected to be that of {start}, {config[name]},"
                f" or left out. Received: {given[name]}"
            )
    kept = {name: config[name] for name in [*fixed, "dropout"]}
    kept["size"] = common_size(config["image_shape"])
    kept["grey"] = config["image_shape"][-1] == 1
    return dataclasses.replace(settings, **kept)


def _stays(name, new, config):
    """Returns whether the weights stay; levels may come on top of theirs."""
    old, levels = config[name], config["levels"]
    if name == "levels":
        return new >= levels
    if name == "depth":
        old, new = (
            level_depths(levels, depth)[:levels] for depth in (old, new)
        )
    return new == old


def resume(folder, identity):
    """Loads the model of a run that was interrupted, and its `Progress`.

    Returns None if there is no checkpoint yet, and refuses one of a run with
    another `_identity`.
    """
    loaded = load_checkpoint(pathlib.Path(folder) / CHECKPOINT)
    if loaded is None:
        return None
    # Settings that the checkpoint does not mention had their defaults.
    before = {**dataclasses.asdict(Settings()), **loaded[1].settings}
    different = []
    for name in sorted({*before, *identity}):
        was, now = before.get(name), identity.get(name)
        longer = name in LENGTH and bool(was) == bool(now)
        if was != now and not longer and name not in READING:
            different.append(f"{name} (was {was}, is {now})")
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
    targets=None,
    validation_targets=None,
):
    """Trains to the end: a new model, or the one whose checkpoint is there.

    `written_each_epoch` is written after every epoch, `checkpoint.keras` if the
    latest one is a minute old; at the end that and `model.keras`, with the
    averaged weights if there are any. It can be stopped at any time. SIGINT
    (Ctrl-C) and SIGTERM save a checkpoint after the batch at work before they
    end it by a KeyboardInterrupt.

    Args:
        folder: of the run; made if it is missing. A ValueError says if its run
            has other settings or images, or is at work in another process.
        images: array to train on.
        validation: array, or None.
        settings: `Settings`.
        callbacks: Keras callbacks, beside its own.
        targets: what stands beside the images for `Glow.fit`, for `num_classes`
            and `context_shape` in the settings.
        validation_targets: the same of the validation images.

    Returns:
        The model.
    """
    folder = pathlib.Path(folder)
    identity = _identity(settings, images, targets)
    checkpoint = Checkpoint(folder / CHECKPOINT, identity)
    batch_size, epochs = settings.batch_size, settings.epochs
    images, targets = _divisible_by_devices(images, targets, batch_size)
    validation = validation is not None and _divisible_by_devices(
        validation, validation_targets, batch_size
    )
    # The samples are given the first contexts.
    shown = keras.tree.flatten(targets)[-1] if settings.context_shape else None
    line = ProgressOfTraining(epochs, len(images), batch_size)
    with locked(folder), line, stopped_by_signals(checkpoint):
        # Its other subfolders are left alone: runs may be at work in them.
        remove_partials(folder)
        remove_partials(folder / "samples")
        model, progress = resume(folder, identity) or (
            new_model(settings, images.shape[1:], len(images)),
            Progress(),
        )
        budget = settings.minutes and TimeBudget(
            settings.minutes, settings.learning_rate, progress.seconds
        )
        line.seconds = budget and budget.seconds - budget.spent
        callbacks = [
            *filter(None, [budget]),
            line,
            *callbacks,
            *written_each_epoch(folder, images.shape[1:3], shown),
            # It comes last: if a kill keeps another callback from its work in
            # an epoch, that epoch is trained once more.
            checkpoint,
        ]
        _tell_what_is_there(model, progress.epoch >= epochs, budget)
        while not (budget and budget.over):
            # Keras counts the batches of an epoch once per `fit`, so an epoch
            # that was cut short gets a `fit` of its own. `fit` ends by moving
            # the averaged weights into the model, so training goes on with the
            # checkpoint, which holds the raw ones.
            end = progress.epoch + 1 if progress.batch else epochs
            rate = _schedule(settings, model, len(images))
            model.optimizer.learning_rate = rate
            checkpoint.progress = progress
            _truncate_history(folder / "history.csv", progress.epoch)
            model.fit(
                _sequence(images, targets, settings, progress, model),
                epochs=end,
                initial_epoch=progress.epoch,
                validation_data=validation or None,
                validation_batch_size=batch_size,
                verbose=0,
                callbacks=callbacks,
            )
            if end == epochs:
                break
            model, progress = resume(folder, identity)
        with averaged_weights(model):
            model.save(folder / "model.keras")
    return model


def _tell_what_is_there(model, finished, budget):
    print(f"{model.count_params():,} parameters", flush=True)
    if finished or (budget and budget.over):
        print("Finished already: more --epochs or --minutes go on")


def _sequence(images, targets, settings, progress, model):
    return ImageSequence(
        images,
        targets,
        batch_size=settings.batch_size,
        flip=settings.flip,
        seed=settings.seed,
        epoch=progress.epoch,
        batch=progress.batch,
        drop_remainder=model.jit_compile,
    )


def _identity(settings, images, targets):
    """Returns a dict of all that shapes a run; of arrays, shape and hash."""
    identity = dataclasses.asdict(settings)
    names = ["labels"] * bool(settings.num_classes) + ["context"]
    arrays = keras.tree.flatten((images, targets))
    for name, array in zip(["images", *names], arrays, strict=False):
        if array is not None:
            shape = " x ".join(map(str, array.shape))
            digest = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
            identity[name] = f"{shape}, sha256 {digest[:12]}"
    return identity


def _divisible_by_devices(images, targets, batch_size):
    """Drops the images of the end that the devices could not share evenly."""
    shards = count_shards()
    if batch_size % shards:
        refuse("batch_size", f"a multiple of {shards} devices", batch_size)
    count = len(images) - len(images) % shards
    if not count:
        refuse("images", f"{shards} or more, one for each device", images)
    if targets is not None:
        targets = keras.tree.map_structure(lambda a: a[:count], targets)
    return images[:count], targets


@contextlib.contextmanager
def locked(folder):
    """Makes a folder, and refuses one in which another process is training.

    The lock ends with the process that holds it, however that ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written to: {error.strerror}"
        ) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows has no fcntl.
        except BlockingIOError:
            raise ValueError(
                f"{folder} is in use: another process is training in it"
            ) from None
        yield


@contextlib.contextmanager
def stopped_by_signals(checkpoint):
    """Has SIGINT and SIGTERM save a checkpoint; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only.
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


def _truncate_history(history, epochs):
    """Drops the rows of epochs that the checkpoint does not contain."""
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
