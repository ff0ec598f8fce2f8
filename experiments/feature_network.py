"""A small network whose features tell faces apart, for distances of samples.

    python experiments/feature_network.py faces32_train.npz faces32_valid.npz

Trains on the 40 attributes of CelebA, from scratch and offline, and writes
`weights/face_features.keras` (0.95 MB): uint8 or float images 0..255 in, logits
of the attributes out, and 96 standardised features in the layer `features`.
Then it prints the area under the ROC curve for each attribute on the validation
faces, and what the distances of `keras_glow.distances` make of faces that were
damaged on purpose: both should grow with the damage.

The epoch to keep is chosen on a tenth of the training faces. It is drawn at
random, since the file does not say who is on a face: some people are on both
sides. The validation faces, of other people, take no part in it.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers, ops

import keras_glow
from keras_glow.files.atomic import atomic_file

WEIGHTS = pathlib.Path(__file__).parents[1] / "weights" / "face_features.keras"
BATCH_SIZE = 128
# Width and stride of each convolution. The first keeps the resolution, so that
# noise of single pixels is seen.
CONVOLUTIONS = ((24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 2))
FEATURES = 96


def load_features(path=WEIGHTS):
    """The features of a saved network, as `keras_glow.distances` takes them.

    Args:
        path: `.keras` file with a layer called `features`.

    Returns:
        Function of images 0..255, `(count, height, width, channels)`, that
        returns a float32 array `(count, d)`.
    """
    model = keras.saving.load_model(path, compile=False)
    model = keras.Model(model.input, model.get_layer("features").output)
    shape = model.input_shape[1:]

    def features(images):
        if np.shape(images)[1:] != shape:
            raise ValueError(
                f"Images are expected to have the shape (count, {shape[0]}, "
                f"{shape[1]}, {shape[2]}). Received: shape={np.shape(images)}"
            )
        return model.predict(images, batch_size=256, verbose=0)

    return features


def build(image_shape, outputs):
    """The network: `(batch, height, width, channels)` to logits."""
    inputs = keras.Input(image_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for width, stride in CONVOLUTIONS:
        x = layers.Conv2D(width, 3, stride, "same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    # The faces are aligned: where something is matters, so no pooling.
    x = layers.Flatten()(x)
    x = layers.Dense(FEATURES, use_bias=False)(x)
    # Features of mean 0 and variance 1 on faces, before the nonlinearity: none
    # outweighs another in a distance, and they are about Gaussian.
    x = layers.BatchNormalization(center=False, scale=False, name="features")(x)
    x = layers.Activation("silu")(x)
    x = layers.Dropout(0.3)(x)
    return keras.Model(inputs, layers.Dense(outputs, name="logits")(x))


def train(images, attributes, epochs, learning_rate, seed):
    """A network trained on faces and their attributes.

    Args:
        images: uint8 array `(count, height, width, channels)`.
        attributes: array of 0 and 1, `(count, attributes)`.
        epochs: int, at most; the weights of the best are kept.
        learning_rate: float, the highest.
        seed: int.
    """
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(len(images))
    held_out, kept = np.split(order, [len(images) // 10])
    batches = keras_glow.data.ImageSequence(
        images[kept], attributes[kept], BATCH_SIZE, flip=True, seed=seed
    )
    model = build(images.shape[1:], attributes.shape[1])
    schedule = keras_glow.schedules.warmup_cosine(
        learning_rate, epochs * len(batches), 100
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        keras.losses.BinaryCrossentropy(from_logits=True),
        # XLA's convolutions are slower on the CPU.
        jit_compile=False,
    )
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        verbose=2,
        validation_data=(images[held_out], attributes[held_out]),
        callbacks=[
            keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        ],
    )
    # A model of the same layers that was not compiled: without the optimiser
    # the file is a third of the size.
    return keras.Model(model.input, model.output)


def roc_area(labels, scores):
    """The chance that a face with the attribute scores above one without.

    Args:
        labels: array of 0 and 1, `(count,)`.
        scores: float array `(count,)`.

    Returns:
        float: 0.5 for guessing, 1 for a perfect order, nan for one class only.
    """
    present, absent = scores[labels == 1], scores[labels == 0]
    if not len(present) or not len(absent):
        return float("nan")
    wins = np.sign(present[:, None] - absent)
    return float((1 + wins.mean()) / 2)


def damaged(images, rng):
    """Yields what was done to the images, and the images."""
    yield "nothing", images
    for deviation in (2, 5, 10, 20):
        noise = rng.normal(0, deviation, images.shape)
        noisy = np.clip(np.round(images + noise), 0, 255).astype("uint8")
        yield f"Gaussian noise of {deviation} grey levels", noisy
    for factor in (2, 4):
        height, width = images.shape[1:3]
        small = ops.convert_to_tensor(images, "float32")
        # The strides are named, since what they default to fails on JAX.
        small = ops.average_pool(small, factor, strides=factor)
        blurred = ops.image.resize(small, (height, width), "bilinear")
        blurred = np.round(ops.convert_to_numpy(blurred)).astype("uint8")
        yield f"shrunk by {factor} and enlarged", blurred
    for share in (0.2, 1.0):
        count = int(share * len(images))
        swapped = images.copy()
        # The left half of the face of one, the right half of another's.
        middle = images.shape[2] // 2
        swapped[:count, :, middle:] = np.roll(images[:count], 1, 0)[
            :, :, middle:
        ]
        yield f"{share:.0%} with halves of two faces", swapped
    yield (
        "a third of the faces only",
        np.resize(images[: len(images) // 3], images.shape),
    )


def report(path, train_images, valid):
    """Prints how well the network does, and what the distances see."""
    images, attributes = valid["images"], valid["attributes"]
    logits = keras.saving.load_model(path, compile=False).predict(
        images, batch_size=256, verbose=0
    )
    areas = {
        str(name): roc_area(attributes[:, i], logits[:, i])
        for i, name in enumerate(valid["attribute_names"])
    }
    print("\n| attribute | faces with it | area under the ROC curve |")
    print("|---|---|---|")
    for name in sorted(areas, key=areas.get, reverse=True):
        column = list(areas).index(name)
        share = attributes[:, column].mean()
        print(f"| {name} | {share:.1%} | {areas[name]:.3f} |")
    print(f"| mean of {len(areas)} | | {np.mean(list(areas.values())):.3f} |")
    features = load_features(path)
    real = features(images)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(train_images))[: len(images)]
    print(f"\nTo the validation faces, from {len(chosen)} training faces:\n")
    print("| what was done to them | Fréchet | kernel, x 1000 |")
    print("|---|---|---|")
    for name, changed in damaged(train_images[chosen], rng):
        generated = features(changed)
        frechet = keras_glow.distances.frechet_distance(real, generated)
        kernel, error = keras_glow.distances.kernel_distance(real, generated)
        print(
            f"| {name} | {frechet:.2f} | {1000 * kernel:.1f} "
            f"± {1000 * error:.1f} |"
        )


def main():
    """Trains unless told not to, and reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help=".npz with images and attributes")
    parser.add_argument("validation", help="the same, of other people")
    parser.add_argument("--out", type=pathlib.Path, default=WEIGHTS)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--report", action="store_true", help="only, on what --out holds"
    )
    options = parser.parse_args()
    # Read once each: the files are compressed.
    with np.load(options.train) as file:
        images, attributes = file["images"], file["attributes"]
    with np.load(options.validation) as file:
        valid = {
            name: file[name]
            for name in ("images", "attributes", "attribute_names")
        }
    if not options.report:
        model = train(
            images,
            attributes,
            options.epochs,
            options.learning_rate,
            options.seed,
        )
        with atomic_file(options.out) as partial:
            model.save(partial)
        print(
            f"{options.out.name}: {model.count_params():,} parameters, "
            f"{options.out.stat().st_size / 1e6:.2f} MB"
        )
    report(options.out, images, valid)


if __name__ == "__main__":
    main()
