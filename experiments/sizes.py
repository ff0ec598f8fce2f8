"""Which size of model gets furthest in a given time?

    python experiments/sizes.py faces32_train.npz faces32_valid.npz --minutes 5

Trains each size for as many steps as it does in that time on this machine, and
prints bits/dim on the validation images: a small model takes more steps, a
large one learns more from each.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_glow

# depth, width, dtype of the coupling networks, highest learning rate
SIZES = [
    (4, 128, "float32", 8e-3),
    (8, 128, "bfloat16", 6e-3),
    (6, 256, "bfloat16", 6e-3),
    (12, 128, "bfloat16", 6e-3),
]
BATCH_SIZE = 32
TIMED_STEPS = 30


class TimeSteps(keras.callbacks.Callback):
    """Seconds per step, the first ones left out: they trace and compile."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            self.start = time.perf_counter()
        if batch == TIMED_STEPS + 4:
            self.seconds = (time.perf_counter() - self.start) / TIMED_STEPS


def train(images, size, steps, callbacks=()):
    """A model of a size, trained for a number of steps."""
    depth, width, dtype, learning_rate = size
    model = keras_glow.Glow(
        images.shape[1:], 3, depth, width, network_dtype=dtype
    )
    schedule = keras_glow.schedules.warmup_cosine(
        learning_rate, steps, min(300, steps // 4)
    )
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1e5))
    batches = keras_glow.data.ImageSequence(
        images, batch_size=BATCH_SIZE, flip=True
    )
    model.fit(
        (batches[i % len(batches)] for i in range(steps)),
        steps_per_epoch=steps,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def main():
    """Runs the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("validation")
    parser.add_argument("--minutes", type=float, default=5)
    options = parser.parse_args()
    images = keras_glow.images.load_images(options.train, 32)
    validation = keras_glow.images.load_images(options.validation, 32)[:512]
    print("depth  width  dtype     parameters  images/s  steps  bits/dim")
    for size in SIZES:
        timer = TimeSteps()
        train(images, size, TIMED_STEPS + 5, [timer])
        steps = int(60 * options.minutes / timer.seconds)
        model = train(images, size, steps)
        bits = model.bits_per_dim(validation, seed=0).mean()
        depth, width, dtype, _ = size
        print(
            f"{depth:5}  {width:5}  {dtype:8}  {model.count_params():10,}  "
            f"{BATCH_SIZE / timer.seconds:8.0f}  {steps:5}  {bits:8.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
