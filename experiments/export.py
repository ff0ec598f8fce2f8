"""What exported presets differ by, weigh and take: the table of docs/export.md.

    python experiments/export.py mnist [--count 32]

A preset is exported in each format whose packages are installed, and run on
images beside the original: drawn ones, so that no data are needed.
"""

import argparse
import importlib.util
import pathlib
import statistics
import tempfile
import time
from functools import partial

import numpy as np

from keras_glow import Glow
from keras_glow.files.presets import PRESETS
from keras_glow.flow.prediction import predict

PACKAGES = {
    "tf_saved_model": ["tensorflow"],
    "litert": ["tensorflow"],
    "onnx": ["tf2onnx", "onnx", "onnxruntime"],
}


def main():
    """Reads the options and prints a line for each format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--count", type=int, default=32)
    options = parser.parse_args()
    model, count = Glow.from_preset(options.preset), options.count
    labels = None
    if model.num_classes:
        labels = np.arange(count, dtype="int32") % model.num_classes
    images = model.sample(count, 0.7, seed=0, labels=labels)
    size = {"labels": labels, "batch_size": count}
    z = model.encode(images, **size)
    log_prob = model.log_prob(images, seed="center", **size)
    # Of these latents, before they are quantised.
    given = () if labels is None else (labels,)
    x = predict(model.decoder, z, given, count)
    encoding = seconds(lambda: model.log_prob(images, seed="center", **size))
    decoding = seconds(lambda: model.decode(z, **size))
    print(f"original: {speed(encoding, decoding, count)}")
    for format, packages in PACKAGES.items():
        missing = [p for p in packages if not importlib.util.find_spec(p)]
        if missing:
            print(f"{format}: needs {' '.join(missing)}")
            continue
        encoder, decoder, about = exported(model, format)
        more = {} if labels is None else {"labels": labels}
        more_z = {**more, "temperature": np.array(1, "float32")}
        encoded, decoded = (
            encoder(images=images, **more),
            decoder(z=z, **more_z),
        )
        back = decoder(z=encoded["z"], **more_z)["images"]
        encoding = seconds(partial(encoder, images=images, **more))
        decoding = seconds(partial(decoder, z=z, **more_z))
        print(
            f"{format}: {about}; "
            f"largest differences: z {np.abs(encoded['z'] - z).max():.0e}, "
            f"log_prob {np.abs(encoded['log_prob'] / log_prob - 1).max():.0e} "
            f"relative, x {np.abs(decoded['x'] - x).max():.0e}; "
            f"{np.sum(back != images)} of {images.size} pixels lost; "
            f"{speed(encoding, decoding, count)}"
        )


def exported(model, format):
    """Exports a model: its encoder, its decoder, and what there is to say."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        folder = pathlib.Path(folder, "out")
        model.export(folder, format)
        took = time.perf_counter() - start
        files = [f.stat().st_size for f in folder.rglob("*") if f.is_file()]
        parts = [LOADERS[format](folder, n) for n in ("encoder", "decoder")]
    return *parts, f"{took:.0f} s to export, {sum(files) / 1e6:.1f} MB"


def speed(encoding, decoding, count):
    """Seconds for `count` images in words, milliseconds an image."""
    return (
        f"encoding {1e3 * encoding / count:.1f}, "
        f"decoding {1e3 * decoding / count:.1f} ms/image"
    )


def seconds(function, repeats=5):
    """The median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def load_saved_model(folder, name):
    """A SavedModel as a function of named arrays to a dict of them."""
    import tensorflow as tf

    function = tf.saved_model.load(folder / name).signatures["serving_default"]

    def run(**inputs):
        outputs = function(**{k: tf.constant(v) for k, v in inputs.items()})
        return {k: v.numpy() for k, v in outputs.items()}

    return run


def load_litert(folder, name):
    """Likewise, a LiteRT file."""
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter
    else:  # TensorFlow's own is older, and is going to be taken out of it.
        from tensorflow import lite

        Interpreter = lite.Interpreter

    file = (folder / f"{name}.tflite").read_bytes()
    interpreter = Interpreter(model_content=file, num_threads=2)
    runner = interpreter.get_signature_runner()
    return lambda **inputs: runner(**inputs)


def load_onnx(folder, name):
    """Likewise, an ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
    names = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(
        zip(names, session.run(None, inputs), strict=True)
    )


LOADERS = {
    "tf_saved_model": load_saved_model,
    "litert": load_litert,
    "onnx": load_onnx,
}


if __name__ == "__main__":
    main()
