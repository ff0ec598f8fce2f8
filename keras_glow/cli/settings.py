"""The settings of a run, which the options of `keras-glow train` set."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that shape a run, which is resumed with equal ones only.

    A new field needs the default that runs begun without it were trained with.

    Attributes:
        size: int, height and width that the images were resized to, or None.
        grey: bool, whether they were read as grey images.
        flip: bool, whether half of them are mirrored in each epoch.
        learning_rate, warmup: see `schedules.warmup_cosine`.
        clip: float, largest norm of the gradient; 0 for no limit.
        ema: float, momentum of the averaged weights; 0 for no averages.

    The others are arguments of `Glow` and `fit`.
    """

    epochs: int = 20
    batch_size: int = 32
    size: int | None = None
    grey: bool = False
    flip: bool = False
    levels: int = 3
    depth: int = 4
    width: int = 128
    permutation: str = "invertible_conv"
    coupling: str = "affine"
    bits: int = 8
    seed: int = 0
    network_dtype: str | None = None
    num_classes: int | None = None
    class_priors: str = "all"
    classifier_weight: float = 0.0
    learning_rate: float = 4e-3
    warmup: int = 300
    clip: float = 1e5
    ema: float = 0.0
