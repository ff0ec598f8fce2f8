"""Sample grids and checkpoints."""

import keras
import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_array_equal
from PIL import Image

from keras_glow import Glow
from keras_glow.callbacks import Checkpoint, SampleGrid
from keras_glow.saving import save_atomically


@pytest.fixture(scope="module")
def images():
    return random_images(64, (4, 4, 3))


@pytest.fixture
def model(images):
    model = Glow((4, 4, 3), levels=2, depth=1, width=8)
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9))
    return model


def test_sample_grids(model, images, tmp_path):
    grid = SampleGrid(
        tmp_path / "new", every=2, count=5, temperatures=(0, 1), seed=3
    )
    model.fit(images, epochs=3, verbose=0, callbacks=[grid])
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["epoch_0002.png", "epoch_0003.png"]
    with Image.open(tmp_path / "new" / "epoch_0003.png") as image:
        picture = np.asarray(image)
    assert picture.shape == (2 + 2 * 6, 2 + 5 * 6, 3)
    # After the last epoch the model holds the averages, which drew the grid.
    expected = model.sample(5, temperature=1, seed=3)
    assert_array_equal(picture[8:12, 26:30], expected[4])


def test_training_goes_on_exactly_from_a_checkpoint(model, images, tmp_path):
    path = tmp_path / "checkpoint.keras"
    losses = []

    class Copy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            losses.append(logs["loss"])
            if epoch == 0:
                path.rename(tmp_path / "first.keras")

    model.fit(
        images,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[Checkpoint(path), Copy()],
    )
    resumed = keras.saving.load_model(tmp_path / "first.keras")
    history = resumed.fit(images, shuffle=False, verbose=0).history
    assert history["loss"] == losses[1:]
    for one, two in zip(resumed.weights, model.weights, strict=True):
        assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two)
        )


def test_a_failed_save_leaves_the_file_before(
    model, images, tmp_path, monkeypatch
):
    path = tmp_path / "model.keras"
    save_atomically(model, path)
    before = path.read_bytes()

    def fail(model, partial):
        partial.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_atomically(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
