"""Do edits change what they should, and nothing else? And what is an anomaly?

    python experiments/edits.py faces32_train.npz faces32_valid.npz \
        --digits mnist.npz --out runs/edits

Finds the direction of some attributes in the latents of training faces by
`keras_glow.latent`: the difference of means, the same orthogonal to all other
attributes, and ridge regression. Validation faces, of other people,
are edited: those without the attribute towards it. A network that was trained
on the attributes (`experiments/feature_network.py`) says which of its 40
attributes each edited face has, and is compared with what it says of the same
face before. A random direction as long as the difference of means shows what
the network makes of a change that means nothing.

Then it prints how well each anomaly score of `keras_glow.latent` tells other
images from the validation faces: the area under the ROC curve, 0.5 for
guessing.

It writes `edits.md` (all tables) and `edits.png` (the share of edited faces
that changed, against strength), and `edited.png`, faces drawn from the model
and edited: nothing in the folder shows a face of the data.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from feature_network import WEIGHTS, roc_area

import keras_glow
from keras_glow import latent

ATTRIBUTES = ("Smiling", "Eyeglasses", "Male", "Blond_Hair")
STRENGTHS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)


def read(path):
    """Images, attributes as bools, and their names, of an `.npz` file."""
    with np.load(path) as file:
        names = [str(name) for name in file["attribute_names"]]
        return file["images"], file["attributes"].astype(bool), names


def directions(z, labels, columns, ridge):
    """The direction of each attribute by each method.

    Args:
        z: latents `(count, D)`.
        labels: bools `(count, attributes)`.
        columns: dict of the attributes to edit to their columns.
        ridge: float.

    Returns:
        Dict of methods to dicts of names to directions.
    """
    found = {}
    rng = np.random.default_rng(0)
    for name, column in columns.items():
        has = labels[:, column]
        others = np.delete(labels, column, axis=1)
        others = others[:, others.any(axis=0)]  # one may be too rare
        plain = latent.attribute_direction(z, has)
        noise = rng.normal(size=plain.shape)
        noise *= np.linalg.norm(plain) / np.linalg.norm(noise)
        methods = {
            "difference of means": plain,
            "orthogonal to the others": latent.attribute_direction(
                z, has, others
            ),
            "ridge": latent.attribute_direction(z, has, ridge=ridge),
            "ridge, orthogonal": latent.attribute_direction(
                z, has, others, ridge
            ),
            "a random direction": noise,
        }
        for method, direction in methods.items():
            found.setdefault(method, {})[name] = direction
    return found


def measure(model, judge, faces, found, columns, strengths):
    """How the judge's mind changes about edited faces.

    Returns:
        Dict of methods to arrays `(attributes, strengths, 2)`: the share of
        faces that gained the attribute, of those without; and how many other
        attributes changed, on average.
    """
    before = judge(faces)
    results = {}
    for method, own in found.items():
        rows = []
        for name, column in columns.items():
            without = ~before[:, column]
            edited = latent.apply_direction(
                model, faces[without], own[name], strengths
            )
            assert np.array_equal(edited[0], faces[without])  # noqa: S101
            row = []
            for images in edited:
                after = judge(images)
                changed = after != before[without]
                others = np.delete(changed, column, axis=1)
                row.append((after[:, column].mean(), others.sum(1).mean()))
            rows.append(row)
            print(method, name, np.round(row, 2).tolist(), flush=True)
        results[method] = np.array(rows)
    return results


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def edit_tables(results, columns, strengths):
    """For each attribute, and the mean of all, a table over the strengths."""
    names = [*columns, f"mean of {len(columns)}"]
    for i, name in enumerate(names):
        rows = []
        for method, values in results.items():
            values = np.concatenate([values, values.mean(0, keepdims=True)])
            cells = [f"{has:.0%}, {others:.1f}" for has, others in values[i]]
            rows.append([method, *cells])
        yield (
            f"**{name}**: faces that gained it, and other attributes changed\n"
        )
        yield table(["strength", *(f"{s:g}" for s in strengths)], rows) + "\n"


def draw(results, strengths, path):
    """Means over the attributes: gained, and others changed."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.6), layout="constrained"
    )
    for method, values in results.items():
        gained, others = values.mean(axis=0).T
        style = "--" if "random" in method else "-"
        left.plot(strengths, 100 * gained, f"o{style}", label=method)
        right.plot(others, 100 * gained, f"o{style}", label=method)
    left.set(
        xlabel="strength (1 = the distance between the means)",
        ylabel="faces that gained the attribute, %",
        ylim=(-3, 103),
    )
    right.set(
        xlabel="other attributes changed, of 39", ylim=(-3, 103), xlim=(0, None)
    )
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_edited(model, found, method, path):
    """Faces drawn from the model, a row for each attribute, -2 to 2."""
    faces = model.sample(2, temperature=0.7, seed=5)
    rows = []
    for direction in found[method].values():
        edited = latent.apply_direction(
            model, faces, direction, np.linspace(-2, 2, 5)
        )
        rows.append(np.concatenate([edited[:, 0], edited[:, 1]]))
    grid = keras_glow.images.image_grid(np.concatenate(rows), columns=10)
    grid = grid.repeat(3, axis=0).repeat(3, axis=1)
    keras_glow.images.save_image(grid, path)


def other_images(shape, digits, count, rng):
    """Yields names and images that are no faces of the data."""
    size = shape[0]
    if digits:
        with np.load(digits) as file:
            x = np.pad(file["x_test"][:count], ((0, 0), (2, 2), (2, 2)))
        yield "handwritten digits", np.repeat(x[..., None], 3, axis=-1)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    yield "constant images", np.broadcast_to(colours, (count, *shape))
    yield "uniform noise", rng.integers(0, 256, (count, *shape))
    for name, picture in photographs():
        height, width = picture.shape[:2]
        patches = []
        for _ in range(count):
            i = rng.integers(height - 2 * size)
            j = rng.integers(width - 2 * size)
            patch = picture[i : i + 2 * size, j : j + 2 * size]
            patch = patch.reshape(size, 2, size, 2, 3).mean((1, 3))
            patches.append(np.round(patch).astype("uint8"))
        yield f"patches of a photograph, {name}", np.stack(patches)


def photographs():
    """Names and photographs without faces that scikit-learn ships."""
    from sklearn.datasets import load_sample_images

    data = load_sample_images()
    for name, picture in zip(data.filenames, data.images, strict=True):
        yield pathlib.Path(name).stem, picture


def anomaly_table(model, faces, typical, digits):
    """Areas under the ROC curve, images of a kind against faces."""
    rng = np.random.default_rng(0)
    methods = {
        "raw likelihood": {"method": "likelihood"},
        "typicality": {"method": "typicality", "typical": typical},
        "minus PNG bits": {"method": "complexity"},
    }
    scores = {
        name: latent.anomaly_score(model, faces, **how)
        for name, how in methods.items()
    }
    bits = [scores["raw likelihood"].mean()]
    rows = [["validation faces", f"{bits[0]:.2f}", *["0.500"] * len(methods)]]
    for kind, images in other_images(
        model.image_shape, digits, len(faces), rng
    ):
        row = []
        for name, how in methods.items():
            odd = latent.anomaly_score(model, images, **how)
            if name == "raw likelihood":
                row.append(f"{odd.mean():.2f}")
            both = np.concatenate([odd, scores[name]])
            row.append(f"{roc_area(np.arange(len(both)) < len(odd), both):.3f}")
        rows.append([kind, *row])
        print(kind, row, flush=True)
    return table(["images", "bits/dim", *methods], rows)


def main():
    """Measures, and writes the tables and pictures."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    model = keras_glow.Glow.from_preset(options.model)
    network = keras.saving.load_model(WEIGHTS, compile=False)

    def judge(images):
        return network.predict(images, batch_size=256, verbose=0) > 0

    train, labels, names = read(options.train)
    valid, valid_labels, _ = read(options.validation)
    train, labels = train[: options.encoded], labels[: options.encoded]
    faces, truth = valid[: options.faces], valid_labels[: options.faces]
    columns = {name: names.index(name) for name in options.attributes}
    right = (judge(faces) == truth).mean(0)
    print({name: round(right[c], 3) for name, c in columns.items()})
    z = model.encode(train)
    found = directions(z, labels, columns, options.ridge)
    draw_edited(model, found, "ridge, orthogonal", options.out / "edited.png")
    results = measure(model, judge, faces, found, columns, options.strengths)
    draw(results, options.strengths, options.out / "edits.png")
    digits = ["--digits", options.digits] if options.digits else []
    files = [options.train, options.validation, *digits]
    command = " ".join(pathlib.Path(file).name for file in files)
    text = [
        "# Edits and anomalies, measured\n",
        f"By `python experiments/edits.py {command} --encoded "
        f"{options.encoded} --faces {options.faces} --odd {options.odd}`\n",
        f"{options.model}: directions from {len(z):,} training faces, "
        f"those of {len(faces)} validation faces edited that the judge, the "
        "network of `weights/face_features.keras`, sees without the attribute. "
        "A cell: the share of them that it sees with the attribute afterwards, "
        "and how many of the other 39 changed, on average. Orthogonal: what is "
        "left of a direction without those of all others; ridge: "
        f"{options.ridge:g}. The judge is right about the attributes of "
        "unedited faces in "
        + ", ".join(f"{right[c]:.0%} ({name})" for name, c in columns.items())
        + ". At strength 0 every pixel is that of the face.\n",
        *edit_tables(results, columns, options.strengths),
        "**Anomalies**: area under the ROC curve, images against "
        f"{options.odd} validation faces\n",
        anomaly_table(
            model,
            valid[: options.odd],
            train[: options.odd],
            options.digits,
        ),
    ]
    (options.out / "edits.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def parse():
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("train", help=".npz with images, attributes and attribute_names")
    add("validation", help="the same, of other people")
    add("--model", default="faces32", help="name of a preset")
    add("--digits", help="mnist.npz, to compare faces with")
    add("--out", type=pathlib.Path, default="runs/edits")
    add("--attributes", nargs="+", default=ATTRIBUTES)
    add("--strengths", type=float, nargs="+", default=STRENGTHS)
    add("--encoded", type=int, default=4000, help="training faces")
    add("--faces", type=int, default=100, help="validation faces to edit")
    add("--odd", type=int, default=300, help="images of a kind, anomalies")
    add("--ridge", type=float, default=1.0)
    options = parser.parse_args()
    if options.strengths[0] != 0:
        parser.error("the first of --strengths is expected to be 0")
    return options


if __name__ == "__main__":
    main()
