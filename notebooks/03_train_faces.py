# %% [markdown]
# # Training on a folder of faces
#
# From a folder of image files to a model in one file: loading, `fit` with a
# grid of samples after every epoch, averaged weights, a learning-rate schedule,
# saving, reloading, and what temperature does.
#
# Set `FOLDER` to a folder of your own, or leave it: then it holds 1,800 jpgs of
# CelebA if the data folder is there (see `notebook_tools.py`), else the 100
# grey face patches that scikit-image ships. CelebA (Liu, Luo, Wang and Tang,
# ICCV 2015) is for non-commercial research and may not be passed on; hence no
# picture here shows a real face, only what the model draws.
#
# In the full setting this takes some 4 minutes on two free CPU cores; with
# `KERAS_GLOW_QUICK=1` it takes 20 seconds and shows only that everything runs.

# %%
import os
import pathlib

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
MAX_IMAGES = 256 if QUICK else None  # None for all
EPOCHS = 3 if QUICK else 20
BATCH_SIZE = 32

RUN = pathlib.Path("runs/03_train_faces")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)
plt.rcParams["figure.constrained_layout.use"] = True

FOLDER = tools.face_folder(RUN / "faces")  # or a folder of your own

# %% [markdown]
# ## Load
#
# `load_images` takes every image file at any depth, turns it upright, crops it
# to a centred square and resizes it with antialiasing, those that are smaller
# too with `upscale`. The result is one uint8 array. A tenth is held out to
# validate on. (It is drawn at random: if a person is in the folder twice, then
# perhaps in both parts, and the validation is a little too kind.)

# %%
images = keras_glow.images.load_images(FOLDER, size=SIZE, upscale=True)
images = np.random.default_rng(0).permutation(images)[:MAX_IMAGES]
held_out = len(images) // 10
validation, images = images[:held_out], images[held_out:]
print(f"{images.shape} {images.dtype} to train on, {held_out} to validate on")

# %% [markdown]
# ## Train
#
# - `ImageSequence` makes batches in a reproducible order and mirrors half of
#   them, which doubles the faces.
# - The learning rate rises in the first tenth of the steps and then falls to
#   the end.
# - `use_ema=True` keeps a running average of the weights, which scores and
#   draws better than the weights themselves. Validation and the sample grid use
#   it, and after `fit` it is what the model holds.
# - `SampleGrid` writes a picture of samples after each epoch. The latents are
#   the same each time.
#
# For longer runs, `keras_glow.callbacks.Checkpoint` saves the model with its
# optimiser after every epoch.

# %%
model = keras_glow.Glow(
    (SIZE, SIZE, 3), levels=LEVELS, depth=DEPTH, width=WIDTH, seed=0
)
batches = keras_glow.data.ImageSequence(
    images, batch_size=BATCH_SIZE, flip=True, seed=0
)
steps = EPOCHS * len(batches)
schedule = keras_glow.schedules.warmup_cosine(4e-3, steps, steps // 10)
model.compile(
    keras.optimizers.Adam(
        schedule, global_clipnorm=1e5, use_ema=True, ema_momentum=0.98
    )
)
print(f"D = {model.dimensions}, {model.count_params():,} parameters")

history = model.fit(
    batches,
    validation_data=(validation, None),
    epochs=EPOCHS,
    verbose=2,
    callbacks=[keras_glow.callbacks.SampleGrid(RUN / "samples", count=12)],
).history

# %% [markdown]
# The curve is in bits per dimension: how many bits a perfect compressor that
# knew the model would spend on each of the D subpixels. Raw pixels take 8.

# %%
epochs = np.arange(1, EPOCHS + 1)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(epochs, history["bits_per_dim"], label="training")
ax.plot(epochs, history["val_bits_per_dim"], label="validation, averaged")
ax.set(xlabel="epoch", ylabel="bits/dim")
ax.locator_params(axis="x", integer=True)
ax.legend()
fig.savefig(RUN / "curve.png")

# %% [markdown]
# The same twelve latents, decoded after some of the epochs (temperatures 0.5,
# 0.7 and 1.0, a row each):

# %%
shown = np.unique(np.linspace(1, EPOCHS, 4).round().astype(int))
fig, axes = plt.subplots(len(shown), 1, figsize=(8, 2.4 * len(shown)))
for ax, epoch in zip(axes, shown, strict=True):
    ax.imshow(plt.imread(RUN / f"samples/epoch_{epoch:04}.png"))
    ax.set(title=f"epoch {epoch}", xticks=[], yticks=[])
fig.savefig(RUN / "epochs.png")

# %% [markdown]
# ## Save and reload
#
# One `.keras` file holds everything: the configuration, the weights, the fixed
# permutations, ActNorm's state, the optimiser. `keras.saving.load_model` reads
# it, in another process and on another backend too, as long as keras_glow is
# imported.

# %%
model.save(RUN / "faces.keras")
loaded = keras.saving.load_model(RUN / "faces.keras")

size = (RUN / "faces.keras").stat().st_size / 2**20
bits = model.bits_per_dim(validation, seed=0)
bits_loaded = loaded.bits_per_dim(validation, seed=0)
print(f"{size:.1f} MiB; worst difference: {abs(bits - bits_loaded).max():.1e}")
np.testing.assert_allclose(bits, bits_loaded, atol=1e-4)

# %% [markdown]
# ## Temperature
#
# The temperature is the standard deviation of the latents. At 0 there is one
# image, the mode; at 1 the model draws from the distribution that it learned.
# In between, at 0.5 to 0.7, faces are the most convincing: a model this small
# spreads some of its probability over images that are no faces, and lower
# temperatures stay away from them. (The longer a model is trained, the higher
# the temperature that it bears.)

# %%
temperatures = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
samples = [loaded.sample(12, t, seed=1) for t in temperatures]
tools.show(
    np.concatenate(samples),
    RUN / "temperatures.png",
    "Samples of the reloaded model, the same latents at each temperature T",
    columns=12,
    rows=[f"T = {t}" for t in temperatures],
)

# %% [markdown]
# ## What the likelihood knows
#
# The model has learned that faces stand upright: the same faces upside down
# cost more bits, although every pixel is the same.

# %%
upside_down = loaded.bits_per_dim(validation[:, ::-1], seed=0)
fig, ax = plt.subplots(figsize=(6, 3))
bins = np.histogram_bin_edges([*bits, *upside_down], 20)
for values, label in ((bits, "upright"), (upside_down, "upside down")):
    mean = values.mean()
    ax.hist(values, bins, alpha=0.5, label=f"{label}, mean {mean:.2f}")
ax.set(xlabel="bits/dim", ylabel="number of faces held out")
ax.legend()
fig.savefig(RUN / "upside_down.png")

more = (upside_down > bits).mean()
print(f"{more:.0%} of the faces cost more bits upside down")
