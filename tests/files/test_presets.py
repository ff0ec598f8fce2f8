"""The models that come with the package: they are what they were."""

import json
import re

import keras
import numpy as np
import pytest
from helpers import (
    EAGERLY,
    ROOT,
    data_file,
    faces,
    random_images,
    untraced,
)
from numpy.testing import assert_allclose, assert_array_equal

from keras_glow import Glow, ModelFileError, presets
from keras_glow.analysis.probes import (
    errors_by_kind,
    out_of_distribution_images,
)
from keras_glow.cli import inputs
from keras_glow.cli.main import main
from keras_glow.flow.noise import standard_normal

GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module", params=presets.PRESETS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return Glow.from_preset(name)


def some_labels(model, count):
    """Classes for so many images, if the model has any."""
    return model.num_classes and np.arange(count) % model.num_classes


def golden_values(model):
    """What a preset makes of fixed images and seeds: plain numbers."""
    images = random_images(4, model.image_shape)
    labels = some_labels(model, 4)
    z = model.encode(images, labels)
    samples = model.sample(4, temperature=0.7, seed=0)
    return {
        "latents": z[:, :: model.dimensions // 16].tolist(),
        "log_prob": model.log_prob(
            images, seed="center", labels=labels
        ).tolist(),
        "sample_means": samples.mean(axis=(1, 2)).tolist(),
    }


def test_golden_latents(name, model):
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    actual = golden_values(model)
    assert_allclose(actual["latents"], expected["latents"], atol=2e-3)
    assert_allclose(actual["log_prob"], expected["log_prob"], rtol=1e-5)
    assert_allclose(actual["sample_means"], expected["sample_means"], atol=0.05)


def test_round_trip_is_exact_and_samples_are_finite(model):
    images = random_images(16, model.image_shape)
    noise = np.random.default_rng(0).integers(0, 256, images.shape, "uint8")
    labels = some_labels(model, 16)
    batches = {"batch_size": 4}  # as above: nothing is traced anew
    for x in (images, noise):
        z = model.encode(x, labels, **batches)
        assert_array_equal(model.decode(z, labels, **batches), x)
    # This raises if a sample is not finite.
    model.sample(64, temperature=1.0, seed=0, **batches)


@pytest.mark.parametrize(
    "count, temperatures",
    [
        pytest.param(32, (1.3,), id="quick"),
        pytest.param(
            1000, (0, 0.5, 0.7, 1.0, 1.3), marks=pytest.mark.slow, id="full"
        ),
    ],
)
def test_samples_are_finite_at_any_temperature(
    name, model, count, temperatures, record_property
):
    z = standard_normal((count, model.dimensions), seed=1)
    labels = some_labels(model, count)
    for temperature in temperatures:
        inputs = temperature * z
        inputs = inputs if labels is None else [inputs, labels]
        images = model.decoder.predict(inputs, verbose=0)
        lost = np.sum(~np.isfinite(images).all(axis=(1, 2, 3)))
        record_property(
            f"samples of {name} at temperature {temperature} that are not "
            "finite",
            f"{lost} of {count:,}",
        )
        assert lost == 0


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(1, id="quick"),
        pytest.param(100, marks=pytest.mark.slow, id="full"),
    ],
)
def test_images_unlike_faces_come_back(name, model, count, record_property):
    channels = model.image_shape[-1]
    images = faces(count)[..., :channels]
    kinds = out_of_distribution_images(model, images, count)
    assert len(kinds) == 7
    path = data_file("mnist.npz")
    if count > 1 and path:
        digits = np.pad(np.load(path)["x_test"][:count], [(0,), (2,), (2,)])
        kinds["digits"] = np.repeat(digits[..., None], channels, axis=-1)
    errors = errors_by_kind(model, kinds)
    for kind, error in errors.items():
        record_property(
            f"reconstruction error of {name} on {len(kinds[kind])} x {kind}",
            f"{error:.1e}",
        )
    assert max(errors.values()) <= 1e-2  # nan fails too


def test_the_card_and_the_file_agree(name):
    path = presets.preset_path(name)
    assert path.stat().st_size < 20e6
    card = (ROOT / "weights" / f"{name}.md").read_text()
    assert presets.PRESETS[name].sha256 in card


def test_presets_are_listed(name, capsys):
    assert main(["presets"]) == 0
    assert f"{name}: {presets.PRESETS[name].description}" in (
        capsys.readouterr().out
    )


def test_a_preset_can_be_sampled_by_its_name(
    name, model, tmp_path, monkeypatch
):
    grid = tmp_path / "grid.png"
    loaded = []
    monkeypatch.setattr(
        inputs, "load_model", lambda name: loaded.append(name) or model
    )
    assert main(["sample", name, "--count=1", f"--grid={grid}"]) == 0
    assert grid.exists() and loaded == [name]


def test_another_file_is_refused(name, tmp_path, monkeypatch):
    other = Glow((4, 4, 1), levels=1, depth=1, width=2)
    other.save(tmp_path / f"{name}.keras")
    monkeypatch.setattr(presets, "FOLDERS", (tmp_path,))
    with pytest.raises(ModelFileError, match="its sha256 is"):
        Glow.from_preset(name)
    (tmp_path / f"{name}.keras").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{name}.keras")):
        Glow.from_preset(name)


def test_unknown_presets_are_refused(capsys):
    with pytest.raises(ValueError, match="one of .*'faces32'.*'faces64'"):
        Glow.from_preset("faces64")
    assert main(["info", "faces64"]) == 1
    assert "is no preset" in capsys.readouterr().err


def test_a_folder_is_a_preset(tmp_path, capsys):
    model = Glow((4, 4, 1), levels=1, depth=1, width=2, num_classes=2)
    untraced(model).compile(keras.optimizers.Adam(1e-3), run_eagerly=EAGERLY)
    images, labels = random_images(8, (4, 4, 1)), np.arange(8) % 2
    model.fit(images, labels, epochs=2, verbose=0)
    folder = tmp_path / "cats"
    model.save_to_preset(folder, "Cats that nobody has seen.")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "model.keras",
    ]
    card = (folder / "README.md").read_text()
    bits = model.history.history["bits_per_dim"][-1]
    for words in (
        "# cats\n\nCats that nobody has seen.",
        "`Glow((4, 4, 1), levels=1, depth=1, width=2, num_classes=2)`",
        f"| parameters | {model.count_params():,} |",
        "| training steps | 2 |",
        f"last epoch | {bits:.3f} |",
        "--labels 0",
    ):
        assert words in card, card
    for path in (folder, str(folder), folder / "model.keras"):
        loaded = untraced(Glow.from_preset(path))
        assert getattr(loaded, "optimizer", None) is None
        assert_array_equal(
            loaded.encode(images, labels), model.encode(images, labels)
        )
    assert main(["info", str(folder)]) == 0
    assert "training steps" not in capsys.readouterr().out
    # What somebody has written on a card stays.
    (folder / "README.md").write_text("mine")
    model.save_to_preset(str(folder))
    assert (folder / "README.md").read_text() == "mine"
    untrained = Glow((4, 4, 1), levels=1, depth=1, width=2)
    untrained.save_to_preset(tmp_path / "new")
    card = (tmp_path / "new" / "README.md").read_text()
    assert "steps" not in card and "bits/dim" not in card


@pytest.mark.slow
def test_the_preset_trains_on(model):
    if model.image_shape != (32, 32, 3):
        pytest.skip("one will do")
    model.compile(keras.optimizers.SGD(0.0))
    biases = model.bijections[1].actnorm.bias.numpy().copy()
    model.fit(random_images(32, (32, 32, 3)), verbose=0)
    # ActNorm is not set from data once more.
    assert_array_equal(model.bijections[1].actnorm.bias.numpy(), biases)
