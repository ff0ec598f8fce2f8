# %% [markdown]
# # Reverse, shuffle or invertible 1x1 convolution?
#
# Between two couplings the channels are mixed. One can reverse them (NICE),
# shuffle them in a random order that stays fixed, or, as Glow does, *learn* how
# to mix them, by an invertible 1x1 convolution: that is its main new part
# (section 3.2 of [the paper](https://arxiv.org/abs/1807.03039), which compares
# the three in section 5.1). Here they are trained alike: the same faces in the
# same order, the same seed, the same schedule, only `permutation` differs.
#
# In the full setting this takes some 5 minutes on two free CPU cores; with
# `KERAS_GLOW_QUICK=1` it takes 25 seconds and shows only that everything runs.
# Faces are CelebA's if the data folder is there, else those of scikit-image
# (see `notebook_tools.py`); no picture shows one of them.

# %%
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Faster convolutions, where TensorFlow would leave them out.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import matplotlib.pyplot as plt
import notebook_tools as tools
import numpy as np

import keras_glow

QUICK = os.environ.get("KERAS_GLOW_QUICK") == "1"
print("Quick setting" if QUICK else "Full setting")
SIZE = 16 if QUICK else 32
LEVELS = 2 if QUICK else 3
DEPTH = 1 if QUICK else 4
WIDTH = 16 if QUICK else 64
TRAIN_IMAGES = 256 if QUICK else 4_000
TEST_IMAGES = 32 if QUICK else 512
EPOCHS = 2 if QUICK else 5
BATCH_SIZE = 32

RUN = pathlib.Path("runs/04_permutations")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)
plt.rcParams["figure.constrained_layout.use"] = True

# %%
images, test_images, name = tools.faces(SIZE, TRAIN_IMAGES)
test_images = test_images[:TEST_IMAGES]
print(f"{name}: {images.shape} to train on, {len(test_images)} to test on")

# %% [markdown]
# ## Train the three
#
# The test images are those of other people. Every model sees them with the same
# dequantisation noise (`seed=0`), so the models can be compared image by image.


# %%
def train(permutation):
    """A model with one kind of permutation, its history and its seconds."""
    model = keras_glow.Glow(
        images.shape[1:],
        levels=LEVELS,
        depth=DEPTH,
        width=WIDTH,
        permutation=permutation,
        seed=0,
    )
    batches = keras_glow.data.ImageSequence(
        images, batch_size=BATCH_SIZE, flip=True, seed=0
    )
    steps = EPOCHS * len(batches)
    schedule = keras_glow.schedules.warmup_cosine(4e-3, steps, steps // 10)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1e5))
    start = time.perf_counter()
    history = model.fit(
        batches,
        validation_data=(test_images, None),
        epochs=EPOCHS,
        verbose=0,
    ).history
    return model, history, time.perf_counter() - start


models, histories, seconds = {}, {}, {}
for permutation in ("reverse", "shuffle", "invertible_conv"):
    results = train(permutation)
    models[permutation], histories[permutation], seconds[permutation] = results
    models[permutation].save(RUN / f"{permutation}.keras")
    print(f"{permutation} is trained")

# %% [markdown]
# ## Curves

# %%
epochs = np.arange(1, EPOCHS + 1)
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
parts = {"training": "bits_per_dim", "test": "val_bits_per_dim"}
for ax, (title, key) in zip(axes, parts.items(), strict=True):
    for permutation, history in histories.items():
        ax.plot(epochs, history[key], "o-", label=permutation)
    ax.set(title=title, xlabel="epoch", xticks=epochs)
    ax.legend()
axes[0].set_ylabel("bits/dim (lower is better)")
fig.savefig(RUN / "curves.png")

# %% [markdown]
# ## Table
#
# The difference is to the invertible convolution on the same images, with its
# standard error over the images. That error knows nothing of other seeds: a
# difference of a few thousandths could turn round with another one. And it is
# the difference after a few minutes: the last section shows what is left of it
# after 90 epochs.

# %%
bits = {
    permutation: model.bits_per_dim(test_images, seed=0)
    for permutation, model in models.items()
}
print("permutation       bits/dim    difference  parameters  seconds")
for permutation, values in bits.items():
    difference = values - bits["invertible_conv"]
    error = difference.std() / np.sqrt(len(difference))
    print(
        f"{permutation:16} {values.mean():9.3f}"
        f"  {difference.mean():+.3f} ± {error:.3f}"
        f"  {models[permutation].count_params():10,}"
        f"  {seconds[permutation]:7.0f}"
    )

# %% [markdown]
# The convolution mixes 12, 24 and 48 channels in the three levels of the full
# setting and adds a tenth to the parameters, a third of that being the fixed P;
# most parameters are in the coupling networks.
#
# ## Samples
#
# The same latents (`seed=0`), at temperature 0.7.

# %%
samples = [model.sample(12, 0.7, seed=0) for model in models.values()]
tools.show(
    np.concatenate(samples),
    RUN / "samples.png",
    "Samples at temperature 0.7",
    columns=12,
    rows=models,
)

# %% [markdown]
# ## What was learned
#
# W started as a random rotation. Its log-determinant per pixel was 0, and every
# singular value 1. After training they are not: the layer has learned which
# combinations of channels to stretch. Averaged below over the steps of each
# level.

# %%
fig, ax = plt.subplots(figsize=(6, 3.4))
model = models["invertible_conv"]
for level in range(1, LEVELS + 1):
    steps = [
        layer
        for layer in model.bijections
        if layer.name.startswith(f"step_{level}_")
    ]
    matrices = [
        keras.ops.convert_to_numpy(step.permutation.matrix()) for step in steps
    ]
    singular = np.linalg.svd(matrices, compute_uv=False).mean(0)
    position = np.linspace(0, 1, len(singular))
    label = f"level {level}, {len(singular)} channels"
    ax.plot(position, singular, ".-", label=label)
ax.axhline(1, color="grey", linewidth=0.8, label="at the start")
ax.set(
    xlabel="singular values in order (0 largest, 1 smallest)",
    ylabel="singular value of W",
)
ax.legend()
fig.savefig(RUN / "singular_values.png")

# %% [markdown]
# ## The long curves
#
# At the report's own size (depth 10, width 512, 90 epochs on 24,425 faces) the
# three were trained on one NVIDIA H200, from two seeds. `experiments/report`
# holds the logs of these runs, which are drawn here, and `docs/results.md` says
# how they were made. In training the order is that of the report. On unseen
# faces reverse and shuffle tie, and the convolution, which wins, learns the
# training images by heart from epoch 65 on.

# %%
report = pathlib.Path(tools.__file__).parents[1] / "experiments" / "report"
fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
runs = {"-": report, "--": report / "seed-1"}
for number, permutation in enumerate(models):
    for seed, (style, folder) in enumerate(runs.items()):
        file = folder / permutation / "history.csv"
        rows = np.genfromtxt(file, delimiter=",", names=True)
        line = {"color": f"C{number}", "label": f"{permutation}, seed {seed}"}
        for ax, key in zip(axes, parts.values(), strict=True):
            ax.plot(rows["epoch"] + 1, rows[key], style, **line)
for ax, title in zip(axes, ("training", "unseen faces"), strict=True):
    ax.set(title=title, xlabel="epoch", ylim=(3.45, 4.2))
axes[0].set_ylabel("bits/dim (lower is better)")
axes[1].legend()
fig.savefig(RUN / "long_curves.png")
