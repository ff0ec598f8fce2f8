"""The settings of a run, which the options of `keras-glow train` set."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that shape a run.

    It is resumed with equal ones only, except that it may go on for more epochs
    or minutes. A new field needs the default that runs begun without it were
    trained with.

    Attributes:
        start: file or preset whose weights the run begins with, or None.
        size: int, height and width that the images were resized to, or None.
        grey: bool, whether they were read as grey images.
        flip: bool, whether half of them are mirrored in each epoch.
        minutes: float, time that the run takes, or None; see
            `callbacks.TimeBudget`. `epochs` is the limit all the same.
        learning_rate, warmup: see `schedules.warmup_cosine`; `minutes` have a
            warm-up of their own.
        context: what it was read from, see `images.load_context`.
        on_bad, upscale: how a folder is read, see `images.load_images`.
        held_out: float, part of the images that validates, see
            `images.split.held_out`.
        clip: float, largest norm of the gradient; 0 for no limit.
        ema: float, momentum of the averaged weights; 0 for no averages.

    The others are arguments of `Glow` and `fit`.
    """

    epochs: int = 20
    minutes: float | None = None
    start: str | None = None
    batch_size: int = 32
    size: int | None = None
    grey: bool = False
    on_bad: str = "error"
    upscale: bool = False
    flip: bool = False
    held_out: float = 0.0
    levels: int = 3
    depth: int | list = 4
    width: int = 128
    network: str = "paper"
    blocks: int = 2
    dropout: float = 0.0
    permutation: str = "invertible_conv"
    coupling: str = "affine"
    bits: int | None = 8
    seed: int = 0
    network_dtype: str | None = None
    num_classes: int | None = None
    context: str | None = None
    context_shape: list | None = None
    class_priors: str = "all"
    classifier_weight: float = 0.0
    learning_rate: float = 4e-3
    warmup: int = 300
    beta_2: float = 0.999
    clip: float = 1e5
    ema: float = 0.0
    whiten: bool = False
    class_couplings: bool = False


# They may change when a run goes on, the latter if the images are the same.
LENGTH = ("epochs", "minutes")
READING = ("on_bad", "upscale")


# What runs of minutes do best with, on a CPU and on a GPU: see docs/results.md,
# "Likelihood for each minute".
ON_CPU = {
    "batch_size": 16,
    "learning_rate": 5e-3,
    "beta_2": 0.99,
    "clip": 100.0,
    "depth": [8, 6, 4],  # and 4 in further levels
    "width": 48,
    "blocks": 1,
}
ON_GPU = {
    "batch_size": 64,
    "learning_rate": 1.2e-3,
    "clip": 20.0,
    "ema": 0.999,
    "depth": 7,
    "width": 96,
    "dropout": 0.2,
}


def default_settings(minutes=None, gpu=False, bfloat16=False):
    """Returns the settings of a new run.

    Args:
        minutes: float, the time that it has, or None.
        gpu: bool, whether it is on a GPU.
        bfloat16: bool, whether the device has instructions for that.
    """
    if minutes is None:
        return Settings()
    return Settings(
        epochs=100_000,
        minutes=minutes,
        network="residual",
        whiten=True,
        network_dtype="bfloat16" if bfloat16 else None,
        **(ON_GPU if gpu else ON_CPU),
    )


def check_size(settings):
    """Refuses a size that the levels cannot halve, before images are read."""
    multiple = 2**settings.levels
    size = settings.size or multiple
    if size % multiple:
        raise ValueError(
            f"--size is expected to be a multiple of 2**levels = {multiple}, "
            f"such as {-(-size // multiple) * multiple}. Received: {size}"
        )


# Share of all steps that the rate rises for, if that is not given.
WARMUP = 0.1
# The least steps of a new run whose epochs are not given; see docs/results.md,
# "From few images".
LEAST_STEPS = 200


def fitted_to(settings, given, count):
    """Returns the settings of a new run, as far as they follow from its images.

    Few images make few steps, so they are seen more often, and the rate does
    not rise for all of them. A time has a warm-up of its own. Depths become as
    many as the levels, and networks without dropout do without. `given` has the
    names of those settings that the user wants as they are, `count` says how
    many images there are.
    """
    depth = settings.depth
    if isinstance(depth, list) and "depth" not in given:
        depth = [*depth, *depth[-1:] * settings.levels][: settings.levels]
        settings = dataclasses.replace(settings, depth=depth)
    if settings.network != "residual" and "dropout" not in given:
        settings = dataclasses.replace(settings, dropout=0.0)
    if settings.minutes:
        return settings
    epochs, warmup = settings.epochs, settings.warmup
    steps = -(-count // settings.batch_size)  # of an epoch
    if "epochs" not in given:
        epochs = max(epochs, -(-LEAST_STEPS // steps))
    if "warmup" not in given:
        warmup = min(warmup, round(WARMUP * epochs * steps))
    return dataclasses.replace(settings, epochs=epochs, warmup=warmup)
