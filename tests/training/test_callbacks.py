"""Sample grids and checkpoints."""

import keras
import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_array_equal
from PIL import Image

from keras_glow import Glow
from keras_glow.callbacks import Checkpoint, HistoryFile, SampleGrid
from keras_glow.training.checkpoint import read_progress


@pytest.fixture(scope="module")
def images():
    return random_images(64, (4, 4, 3))


@pytest.fixture(scope="module")
def model():
    """One model for all tests: tracing takes longer than they do."""
    model = Glow((4, 4, 3), levels=1, depth=1, width=8)
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


def test_samples_that_are_not_finite_do_not_end_training(tmp_path):
    model = Glow((4, 4, 5), levels=1, depth=1, width=8)
    grid = SampleGrid(tmp_path)
    grid.set_model(model)
    grid.set_params({"epochs": 2})
    grid.on_epoch_end(0)
    with Image.open(tmp_path / "epoch_0001.png") as image:
        assert image.mode == "RGB"  # the first three of five channels
    mu = model.bijections[-1].mu
    mu.assign(mu + np.nan)
    with pytest.warns(UserWarning, match="expected to be finite"):
        grid.on_epoch_end(1)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_0001.png"]
    with pytest.raises(ValueError, match="`temperatures`.*0.7"):
        images = random_images(16, (4, 4, 5))
        model.compile("adam")
        model.fit(images, callbacks=[SampleGrid(tmp_path, temperatures=0.7)])


def batches_of(images):
    for start in range(0, len(images), 8):
        yield (images[start : start + 8],)


@pytest.mark.parametrize(
    "count, per_execution", [(3, 1), (4, 2)], ids=["unknown", "several"]
)
def test_a_stop_counts_the_batches(images, tmp_path, count, per_execution):
    """Where the steps are not known, and where not each of them is told of."""
    if per_execution > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras executes steps one by one on Torch")
    model = Glow((4, 4, 3), levels=1, depth=1, width=8)
    model.compile("adam", steps_per_execution=per_execution)
    path = tmp_path / "run.keras"
    checkpoint = Checkpoint(path)
    x = batches_of(images) if per_execution == 1 else images

    def stop(batch, logs):
        checkpoint.stop = batch + 1 == count

    watch = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, batch_size=8, verbose=0, callbacks=[watch, checkpoint])
    assert read_progress(path).batch == count
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == count


def test_a_history_that_cannot_be_closed_ends_nothing(model, images, tmp_path):
    class Full:
        closed = False

        def close(self):
            raise OSError("No space left on device")

    class Fails(HistoryFile):
        def on_train_end(self, logs=None):
            self.csv_file.close()
            self.csv_file = Full()
            super().on_train_end(logs)

    file = str(tmp_path / "history.csv")
    with pytest.warns(UserWarning, match="history.csv: No space"):
        model.fit(images, verbose=0, callbacks=[Fails(file)])
