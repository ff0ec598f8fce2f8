"""Long runs: memory does not grow, and nothing is traced again."""

import gc
import pathlib

import keras
import pytest
from helpers import random_images

from keras_glow import Glow
from keras_glow.callbacks import Checkpoint, HistoryFile, SampleGrid
from keras_glow.layers import Squeeze

STATM = pathlib.Path("/proc/self/statm")
WARM_UP = 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STATM.exists(), reason="reads /proc of Linux"),
]


def resident_pages():
    gc.collect()
    return int(STATM.read_text().split()[1])


class Memory(keras.callbacks.Callback):
    """Resident memory and the count of traces after every epoch."""

    def __init__(self, traces):
        super().__init__()
        self.traces = traces
        self.pages, self.counts = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.pages.append(resident_pages())
        self.counts.append(dict(self.traces))


@pytest.fixture
def traces(monkeypatch):
    """How often Python ran each direction of a layer: once in a trace."""
    counts = {"_forward": 0, "_inverse": 0}

    def counted(name):
        method = getattr(Squeeze, name)

        def call(self, *args):
            counts[name] += 1
            return method(self, *args)

        return call

    for name in counts:
        monkeypatch.setattr(Squeeze, name, counted(name))
    return counts


def test_memory_over_200_epochs_and_50_calls_of_sample(
    tmp_path, traces, record_property
):
    images = random_images(64, (8, 8, 1))
    model = Glow((8, 8, 1), levels=1, depth=1, width=8)
    model.compile(keras.optimizers.Adam(1e-4, use_ema=True))
    memory = Memory(traces)
    model.fit(
        images,
        validation_data=(images[:20], None),
        epochs=WARM_UP + 200,
        verbose=0,
        callbacks=[
            HistoryFile(tmp_path / "history.csv"),
            Checkpoint(tmp_path / "checkpoint.keras"),
            SampleGrid(tmp_path / "samples"),
            memory,
        ],
    )
    growth = max(memory.pages[WARM_UP:]) / memory.pages[WARM_UP - 1] - 1
    assert growth <= 0.05
    assert memory.counts[1] == memory.counts[-1]
    record_property(
        "growth of memory over 200 epochs with checkpoints and samples",
        f"{growth:.1%}",
    )

    sizes = [1, 2, 3, 5, 9, 17, 32, 33, 70]
    for count in sizes:
        model.sample(count, seed=0)
    before, pages = dict(traces), resident_pages()
    for seed in range(50):
        for count in sizes:
            assert len(model.sample(count, seed=seed)) == count
    assert traces == before
    growth = resident_pages() / pages - 1
    assert growth <= 0.05
    record_property(
        f"growth of memory over {50 * len(sizes)} calls of sample",
        f"{growth:.1%}",
    )
    record_property("traces of a shape after its first", "0")
