"""What a context is worth: faces given attributes, a small face, or its grey.

    python experiments/context.py faces32_train.npz faces32_valid.npz \
        --task attributes --cpu-minutes 10 --out runs/context

Begins with a trained model, `--model`, which ignores a context, and trains what
sees the context (or, with `--all`, all weights) on one thread, for a time of
the processor. It prints bits/dim before and after, and writes the model and a
picture of drawn faces: several for each of a few contexts. These are of drawn
faces themselves, since no real face may be shown.

The other figures are of faces drawn at T = 0.7 given contexts of real faces:

- attributes: the share that has each of the eight attributes that
  `experiments/attributes.py` lists, in the eyes of the network of
  `weights/face_features.keras`, among those asked to have it or not to have it;
- super_resolution and colours: by how many grey levels the 8x8 means, or the
  grey values, differ from those asked for (root mean square), and the standard
  deviation of four answers to the same question.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np
from attributes import ATTRIBUTES
from edits import read
from feature_network import WEIGHTS
from likelihood import CpuBudget

import keras_glow
from keras_glow.cli.inputs import load_model
from keras_glow.data import ImageSequence
from keras_glow.images import save_grid
from keras_glow.training.ema import averaged_weights

LUMA = 0.299, 0.587, 0.114  # ITU-R BT.601
QUESTIONS, ANSWERS = 200, 4


def small(images):
    """The 8x8 means of faces, `(count, 8, 8, 3)`."""
    blocks = images.reshape(len(images), 8, 4, 8, 4, 3)
    return blocks.mean((2, 4), dtype="float32")


def grey(images):
    """The grey values of faces, `(count, 32, 32, 1)`."""
    return (images @ np.float32(LUMA))[..., None]


MEASURES = {"super_resolution": small, "colours": grey}


def judge_attributes(faces, asked, names):
    """Prints for each attribute how often it is seen, if asked for or not."""
    network = keras.saving.load_model(WEIGHTS, compile=False)
    seen = network.predict(faces, verbose=0) > 0
    for name in ATTRIBUTES:
        column = names.index(name)
        wanted = asked[:, column] > 0
        with_it, without = seen[wanted, column], seen[~wanted, column]
        print(
            f"{name}: seen in {with_it.mean():.0%} of {len(with_it)} asked to "
            f"have it, in {without.mean():.0%} of {len(without)} others"
        )


def judge_answers(faces, asked, measure):
    """Prints how far faces are from what was asked for, and from each other."""
    error = np.sqrt(np.mean((measure(faces) - asked) ** 2))
    answers = faces.reshape(-1, ANSWERS, *faces.shape[1:]).astype("float32")
    print(
        f"differs by {error:.2f} grey levels from what was asked for; "
        f"standard deviation of {ANSWERS} answers: "
        f"{np.sqrt(answers.var(1, ddof=1).mean()):.2f} grey levels"
    )


def train(images, context, options):
    """Returns the model, trained further with the context."""
    model = load_model(options.model)
    model = model.with_arguments(context_shape=context.shape[1:])
    if not options.all:
        for weight in model.weights:
            weight.trainable = "context" in weight.path and weight.trainable
    model.compile(
        keras.optimizers.Adam(
            options.learning_rate,
            global_clipnorm=20.0,
            use_ema=True,
            ema_momentum=0.99,
        )
    )
    budget = CpuBudget(options.cpu_minutes, options.learning_rate)
    model.fit(
        ImageSequence(images, context, batch_size=16, flip=True),
        epochs=1000,
        verbose=2,
        callbacks=[budget],
    )
    with averaged_weights(model):
        model.save(options.out / f"{options.task}.keras")
    return keras_glow.load_model(options.out / f"{options.task}.keras")


def main():
    """Trains, measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("train", help=".npz with images and attributes")
    add("valid", help=".npz of other people")
    add("--task", required=True, choices=["attributes", *MEASURES])
    add("--model", default="faces32", help=".keras file, or a preset")
    add("--all", action="store_true", help="train all weights")
    add("--cpu-minutes", type=float, default=10.0)
    add("--learning-rate", type=float, default=1e-3)
    add("--out", type=pathlib.Path, default="runs/context")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images, attributes, names = read(options.train)
    valid, valid_attributes, _ = read(options.valid)
    base = load_model(options.model)
    drawn = base.sample(6, temperature=0.7, seed=3)
    measure = MEASURES.get(options.task)
    if measure is None:
        context, asked = attributes, valid_attributes
        shown = attributes[:6]  # 0 and 1 alone
    else:
        context, asked, shown = map(measure, (images, valid, drawn))
    model = train(images, context, options)
    before = base.bits_per_dim(valid, seed=0)
    after = model.bits_per_dim(valid, seed=0, context=asked)
    gained = before - after
    print(
        f"{options.task}: {before.mean():.4f} bits/dim before, "
        f"{after.mean():.4f} after on {len(valid)} faces; less by "
        f"{gained.mean():.4f} +- {gained.std() / len(valid) ** 0.5:.4f}"
    )
    asked = asked[:QUESTIONS].repeat(ANSWERS, axis=0)
    faces = model.sample(len(asked), 0.7, seed=0, context=asked)
    if measure is None:
        judge_attributes(faces, asked, names)
    else:
        judge_answers(faces, asked, measure)
    answers = model.sample(36, 0.7, seed=1, context=shown.repeat(6, axis=0))
    if measure is not None:
        answers = np.concatenate(
            [drawn[:, None], answers.reshape(6, 6, 32, 32, 3)[:, 1:]], 1
        )
    save_grid(
        answers.reshape(-1, 32, 32, 3),
        options.out / f"{options.task}.png",
        columns=6,
        scale=3,
    )


if __name__ == "__main__":
    main()
