"""What one sees of a run while it trains."""

import io
import re
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image

from keras_glow.cli import follow
from keras_glow.images import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, seconds=None, first=0, epochs=2):
    """What a run of two epochs of 40 batches writes to a stream."""
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    monkeypatch.setenv("COLUMNS", "80")
    clock = iter(range(100_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    line = follow.ProgressOfTraining(epochs, images=1279, batch_size=32)
    line.seconds = seconds
    logs = {"loss": 9e9, "bits_per_dim": 12.34567, "skipped_steps": 0.0}
    for epoch in range(epochs):
        batches = 40 - (first if epoch == 0 else 0)
        line.set_params({"steps": batches})
        line.on_epoch_begin(epoch)
        for batch in range(batches):
            line.on_train_batch_end(batch, logs)
        line.on_epoch_end(epoch, {**logs, "val_bits_per_dim": 23.45678})
    return stream.getvalue()


def test_a_terminal_shows_one_line_of_80_columns(monkeypatch):
    text = shown(monkeypatch, Terminal())
    # An epoch is one line, whatever was written in its place before.
    assert text.count("\n") == 2
    assert max(len(part) for part in re.split("[\r\n]", text)) < 80
    assert "\x1b" not in text and "\b" not in text
    assert "12.346 bits/dim" in text and "left" in text and " 50%" in text


def test_a_pipe_gets_plain_lines(monkeypatch):
    monkeypatch.setattr(progress, "PAUSE", 1e9)
    text = shown(monkeypatch, io.StringIO())
    first, second = text.splitlines()
    assert all(character.isprintable() for character in first + second)
    assert re.fullmatch(
        r"epoch 1/2: 12\.346 bits/dim, validation 23\.457, \d+ images/s, "
        r"\d+:\d\d:\d\d left",
        first,
    )
    assert second.endswith("0:00:00 left")


def test_a_long_epoch_tells_a_pipe_where_it_is(monkeypatch):
    monkeypatch.setattr(progress, "PAUSE", 30.0)
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) > 2 and any("%" in line for line in lines)


def test_a_budget_of_time_shows_its_share(monkeypatch):
    text = shown(monkeypatch, io.StringIO(), seconds=1e4)
    assert "% of the time" in text and "left" not in text


def test_a_resumed_epoch_goes_on_where_it_was(monkeypatch):
    text = shown(monkeypatch, Terminal(), first=20, epochs=1)
    shares = [int(share) for share in re.findall(r"(\d+)%", text)]
    assert shares and min(shares) > 50 and max(shares) == 100


def test_skipped_steps_are_told_if_there_are_any():
    assert follow._figures({"skipped_steps": 0.0}) == ""
    assert follow._figures({"skipped_steps": 3.0}) == "3 steps skipped, "


HISTORY = """epoch,bits_per_dim,loss,val_bits_per_dim
0,5.0,9,5.5
1,4.0,9,4.5
2,3.0,9,4.75
3,2.0,9,NA
"""


def test_the_best_epoch_is_told_from_the_history(tmp_path):
    file = tmp_path / "history.csv"
    file.write_text(HISTORY)
    assert follow.best_epoch(follow.read_history(file))["epoch"] == 1
    assert "best: 4.500 in epoch 2" in follow.summary(file, 75)
    assert "0:01:15" in follow.summary(file, 75)
    assert follow.read_history(tmp_path / "absent.csv") == []
    assert follow.best_epoch([{"bits_per_dim": 1.0}]) is None


def test_the_best_weights_are_kept(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    saved = []
    model = types.SimpleNamespace(
        optimizer=None, save=lambda file: saved.append(file.name)
    )
    pictures = follow.RunPictures(tmp_path)
    pictures.set_model(model)
    for epoch in range(4):
        rows = HISTORY.splitlines(keepends=True)[: epoch + 2]
        (tmp_path / "history.csv").write_text("".join(rows))
        pictures.on_epoch_end(epoch)
    assert saved == ["best.keras"] * 2  # of epochs 0 and 1


@pytest.mark.parametrize(
    "values", [[], [3.0], [3.0, 3.0], [1e9, 2.0, np.nan], [-1.0, 0.0]]
)
def test_any_curve_can_be_drawn(tmp_path, values):
    curves = {"training": values, "validation": [np.nan] * len(values)}
    follow.draw_curve(curves, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        colours = {colour for _, colour in image.getcolors(2**16)}
    drawn = (31, 119, 180) in colours
    assert drawn == bool(values)
