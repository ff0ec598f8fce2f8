"""Draws bits/dim over the epochs of one or more runs, each in a colour.

    python experiments/plot_history.py run/history.csv --out curve.png

Solid lines are validation, dashed ones training.
"""

import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main():
    """Reads the options and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("history", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", required=True)
    parser.add_argument("--highest", type=float, help="of the axis, bits/dim")
    options = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for number, history in enumerate(options.history):
        with open(history, newline="") as file:
            rows = list(csv.DictReader(file))
        epochs = [int(row["epoch"]) + 1 for row in rows]
        for column, style in (
            ("bits_per_dim", "--"),
            ("val_bits_per_dim", "-"),
        ):
            if column in rows[0]:
                values = [float(row[column]) for row in rows]
                kind = "validation" if column[:3] == "val" else "training"
                label = f"{history.parent.name}, {kind}"
                axes.plot(
                    epochs, values, style, color=f"C{number}", label=label
                )
    axes.set(xlabel="epoch", ylabel="bits/dim")
    axes.set_ylim(top=options.highest)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
