"""The learning-rate schedules of a Glow, made of Keras's own."""

import keras


def warmup(
    learning_rate: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to the learning rate, then constant."""
    return keras.optimizers.schedules.CosineDecay(
        0.0, 1, alpha=1.0, warmup_target=learning_rate, warmup_steps=steps
    )


def warmup_cosine(
    learning_rate: float, steps: int, warmup_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to the learning rate, then down to 1 % by half a cosine.

    Args:
        learning_rate: float, the highest.
        steps: int, of the whole training; `warmup_steps` are part of them.
        warmup_steps: int.
    """
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup_steps),
        alpha=0.01,
        warmup_target=learning_rate,
        warmup_steps=warmup_steps,
    )
