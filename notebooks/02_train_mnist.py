# %% [markdown]
# # Training a Glow on MNIST
#
# `keras_glow.Glow` is a `keras.Model`: compile it, `fit` it on uint8 images,
# draw new ones with `sample`. No targets, no special loss: it minimises the
# negative log-likelihood of the images themselves.
#
# MNIST (LeCun and Cortes, CC BY-SA 3.0) is read from the data folder, see
# `notebook_tools.py`; without it the smaller digits of scikit-learn do. In the
# full setting this takes some 6 minutes on two free CPU cores; with
# `KERAS_GLOW_QUICK=1` it takes 20 seconds and shows only that everything runs.
# More steps, depth and width give better digits.

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
TRAIN_IMAGES = 512 if QUICK else 10_000
TEST_IMAGES = 64 if QUICK else 1_000
EPOCHS = 3 if QUICK else 6
BATCH_SIZE = 32

RUN = pathlib.Path("runs/02_train_mnist")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)
plt.rcParams["figure.constrained_layout.use"] = True

# %%
(images, labels), (test_images, test_labels), name = tools.digits(SIZE)
images, labels = images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]
test_images, test_labels = test_images[:TEST_IMAGES], test_labels[:TEST_IMAGES]
print(f"{name}: {images.shape} {images.dtype} to train on")

tools.show(
    images[:24], RUN / "data.png", f"Images to train on: {name}", columns=12
)

# %% [markdown]
# ## The model
#
# Sides of 28 cannot be halved three times, so MNIST is padded with black to
# 32x32. Hence D = 32 x 32 x 1 = 1,024 dimensions, and that is what *bits/dim*
# divides by here: `-log2 p(image) / 1024`. The black border is easy, so the
# number is smaller than one given for 28x28. To compare, multiply it by
# 1024/784: that is an upper bound of the model's bits per pixel of the 28x28,
# since the border can only add to `-log2 p`. An untrained guess, all 256 grey
# levels equally likely, has 8 bits/dim.

# %%
model = keras_glow.Glow(
    images.shape[1:], levels=LEVELS, depth=DEPTH, width=WIDTH, seed=0
)
print(f"D = {model.dimensions}, {model.count_params():,} parameters")
print("latents of each level, finest first:", model.latent_shapes)

steps = EPOCHS * -(-len(images) // BATCH_SIZE)


def optimizer():
    """Adam, with a learning rate that rises at first and falls to the end."""
    schedule = keras_glow.schedules.warmup_cosine(4e-3, steps, steps // 10)
    return keras.optimizers.Adam(schedule, global_clipnorm=1e5)


model.compile(optimizer())
history = model.fit(
    images,
    validation_data=(test_images, None),
    epochs=EPOCHS,
    batch_size=BATCH_SIZE,
    verbose=2,
)

# %%
epochs = range(1, EPOCHS + 1)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(epochs, history.history["bits_per_dim"], "o-", label="training")
ax.plot(epochs, history.history["val_bits_per_dim"], "o-", label="test")
ax.set(xlabel="epoch", ylabel="bits/dim", xticks=epochs)
ax.legend()
fig.savefig(RUN / "curve.png")

# %% [markdown]
# Each image has a likelihood of its own. `bits_per_dim` gives one value per
# image; their mean has a standard error.

# %%
bits = model.bits_per_dim(test_images, seed=0)
error = bits.std() / np.sqrt(len(bits))
print(f"{len(bits)} test images: {bits.mean():.3f} +- {error:.3f} bits/dim")

# %% [markdown]
# ## Samples
#
# The temperature scales the standard deviation of the latents. At 1.0 the model
# draws what it believes the data to be; lower, it keeps to what is most
# typical: cleaner, and less varied. The same seed gives the same latents, so
# each column is one digit at three temperatures.

# %%
temperatures = (0.5, 0.7, 1.0)
samples = [model.sample(12, t, seed=0) for t in temperatures]
tools.show(
    np.concatenate(samples),
    RUN / "samples.png",
    "Samples",
    columns=12,
    rows=[f"T = {t}" for t in temperatures],
)

# %% [markdown]
# ## Which digit?
#
# With `num_classes` the prior of the top latent is learned for each class.
# `fit` then takes labels too, and `sample` takes those to draw.

# %%
conditional = keras_glow.Glow(
    images.shape[1:],
    levels=LEVELS,
    depth=DEPTH,
    width=WIDTH,
    num_classes=10,
    seed=0,
)
conditional.compile(optimizer())
conditional.fit(images, labels, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=2)
digits = np.repeat(np.arange(10), 10)
tools.show(
    conditional.sample(100, temperature=0.7, seed=0, labels=digits),
    RUN / "digits.png",
    "Samples of each digit at temperature 0.7",
    columns=10,
    rows=range(10),
)

# %% [markdown]
# A likelihood for each class is a classifier, by Bayes' rule: the digit under
# which an image is most likely.

# %%
few, few_labels = test_images[:64], test_labels[:64]
log_probs = np.stack(
    [
        conditional.log_prob(few, seed=0, labels=np.full(len(few), digit))
        for digit in range(10)
    ]
)
guesses = log_probs.argmax(0)
print(f"{np.mean(guesses == few_labels):.0%} of {len(few)} are guessed right")

# %% [markdown]
# ## Nothing is lost
#
# The map is invertible to the pixel, for images it has never seen as well; and
# a saved model scores and draws the same after it is loaded.

# %%
again = model.decode(model.encode(few))
print("decode(encode(images)) == images:", np.array_equal(again, few))

model.save(RUN / "mnist.keras")
loaded = keras.saving.load_model(RUN / "mnist.keras")
same = np.array_equal(loaded.sample(4, seed=0), model.sample(4, seed=0))
print("the reloaded model draws the same images:", same)
