# %% [markdown]
# # The layers of a Glow, seen by eye
#
# A normalizing flow is a chain of invertible maps between images `x` and
# latents `z`. If every map knows its inverse and how much it stretches volume,
# then the chain gives every image an exact likelihood:
#
# $$\log p(x) = \log \mathcal{N}(z; 0, I) + \log\left|\det
# \frac{\partial z}{\partial x}\right|$$
#
# In keras_glow each map is a Keras layer, a *bijection*, with three methods:
#
# | call | gives |
# |---|---|
# | `z = layer(x)` | image side to latent side; adds the loss `-mean(log_det)` |
# | `x = layer.inverse(z)` | back, through the same weights |
# | `layer.log_det(x)` | the last term above in nats, one value per example |
#
# This notebook looks at each of them in turn. It takes a minute or two,
# and no data but a cat (Chelsea, CC0, shipped with scikit-image).

# %%
import os
import pathlib

os.environ["KERAS_BACKEND"] = "tensorflow"  # for the Jacobians at the end
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import tensorflow as tf
from keras import ops
from sklearn.datasets import make_moons

from keras_glow import layers
from keras_glow.losses import StandardNormalNLL

QUICK = os.environ.get("KERAS_GLOW_QUICK") == "1"
print("Quick setting" if QUICK else "Full setting")
SPLIT_EPOCHS = 5 if QUICK else 40
FLOW_STEPS = 3 if QUICK else 8
FLOW_EPOCHS = 20 if QUICK else 100

RUN = pathlib.Path("runs/01_layers")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)
plt.rcParams["figure.constrained_layout.use"] = True
rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

# %% [markdown]
# Images are `(batch, height, width, channels)`. The layers take continuous
# values, here in [-0.5, 0.5).

# %%
cat = skimage.data.chelsea()[10:266, 80:336]  # its face
cat = cat.reshape(64, 4, 64, 4, 3).mean((1, 3))
x = (cat[None] / 256 - 0.5).astype("float32")


def show(axes, image, title):
    """Draws an image whose values are about -0.5 to 0.5."""
    image = np.clip(ops.convert_to_numpy(image) + 0.5, 0, 1)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if image.ndim == 2 else {}
    axes.imshow(image, **grey)
    axes.set(title=title, xticks=[], yticks=[])


# %% [markdown]
# ## Squeeze
#
# `Squeeze` moves each 2x2 block of pixels into the channels: half the height,
# half the width, four times the channels. It only reorders, so its log-det is
# 0. The flow needs it because all other layers mix or split *channels*.

# %%
squeeze = layers.Squeeze()
squeezed = squeeze(x)

fig, axes = plt.subplots(1, 5, figsize=(12, 2.8), width_ratios=(2, 1, 1, 1, 1))
show(axes[0], x[0], f"x {x.shape[1:]}")
for i, ax in enumerate(axes[1:]):
    c = 3 * i
    show(ax, squeezed[0, ..., c : c + 3], f"z[..., {c}:{c + 3}]")
fig.suptitle(f"Squeeze: one image becomes {tuple(squeezed.shape[1:])}")
fig.savefig(RUN / "squeeze.png")

print("log_det:", ops.convert_to_numpy(squeeze.log_det(x)))
print("inverse is exact:", np.array_equal(squeeze.inverse(squeezed), x))

# %% [markdown]
# ## ActNorm
#
# A bias and a scale for each channel, set once from data (`adapt`) so that
# every channel leaves with mean 0 and variance 1, then trained like any other
# weight. The log-det is the same for every image: height x width x the sum of
# the log-scales. Stretching the narrow channels of a photo *gains* volume, so
# it is positive here.

# %%
actnorm = layers.ActNorm()
actnorm.adapt(squeezed)
normalised = actnorm(squeezed)

fig, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
for ax, h, title in zip(
    axes, (squeezed, normalised), ("before", "after ActNorm"), strict=True
):
    for name, c in (("red", 0), ("green", 1), ("blue", 2)):
        values = ops.convert_to_numpy(h)[..., c::3].ravel()
        ax.hist(values, 60, histtype="step", color=name, label=name)
    ax.set(title=title, xlabel="value of a subpixel")
    ax.legend()
axes[0].set_ylabel("number of subpixels")
fig.savefig(RUN / "actnorm.png")

print(f"log_det: {float(actnorm.log_det(squeezed)[0]):.1f} nats")

# %% [markdown]
# ## Three permutations
#
# A coupling (next section) changes half of the channels only. Between two
# couplings the channels are therefore mixed:
#
# - `Reverse` turns their order round: the two halves change places, but never
#   mix inside.
# - `Shuffle` is a fixed random order.
# - `InvertibleConv1x1` multiplies the channels of every pixel by a *learned*
#   matrix W, which starts as a random rotation. With `lu=True` (the default)
#   W = P L (U + diag(s)), so that its log-det is a mere sum.
#
# Below: the three as matrices, and the first eight channels of the cat after
# each.

# %%
permutations = {
    "Reverse": layers.Reverse(),
    "Shuffle": layers.Shuffle(seed=0),
    "InvertibleConv1x1": layers.InvertibleConv1x1(seed=0),
}

channels = squeezed.shape[-1]
# One pixel for each unit vector: the layer applied to it is a column of W.
units = np.eye(channels, dtype="float32").reshape(channels, 1, 1, channels)
fig = plt.figure(figsize=(13, 5.4))
grid = fig.add_gridspec(3, 9, width_ratios=(1.3, *[1] * 8))
for row, (name, layer) in enumerate(permutations.items()):
    matrix = ops.convert_to_numpy(layer(units)).reshape(channels, channels).T
    ax = fig.add_subplot(grid[row, 0])
    colours = ax.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    ax.set(ylabel=name, xticks=[], yticks=[])
    ax.set_title("W" if row == 0 else "")
    z = layer(squeezed)
    for c in range(8):
        ax = fig.add_subplot(grid[row, c + 1])
        show(ax, z[0, ..., c], f"z[..., {c}]" if row == 0 else "")
    print(f"{name:18} log_det {float(layer.log_det(squeezed)[0]):6.3f} nats")
fig.colorbar(colours, ax=fig.axes, label="entry of W", shrink=0.6)
fig.savefig(RUN / "permutations.png")

# %% [markdown]
# ## Coupling
#
# A coupling leaves the first half of the channels as it is and shifts
# (`AdditiveCoupling`) or shifts and scales (`AffineCoupling`) the second half
# by what a small convolutional network makes of the first. The network itself
# is never inverted: it sees the same half on the way back.
#
# An "image" of 1x1 pixels with two channels is a point in the plane, and there
# the effect can be seen. A new coupling is the identity (its last kernel starts
# at zero), so the weights are moved off their start first. Vertical lines stay
# vertical lines, since the first coordinate does not change; the additive
# coupling keeps every area, the affine one does not, and the colour says by how
# much: that is the log-det.


# %%
def move_weights(layer, size=0.5, seed=0):
    """Moves trainable weights off their start, where much is the identity."""
    noise = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(weight + size * noise.normal(size=weight.shape))


ticks = np.linspace(-2, 2, 33, dtype="float32")
square = np.stack(np.meshgrid(ticks, ticks), -1)  # (33, 33, 2)
points = square.reshape(-1, 1, 1, 2)

fig, axes = plt.subplots(1, 3, figsize=(13, 4))
fig.suptitle("A square grid through a coupling")
images = {"x": (points, np.zeros(len(points)))}
for cls in (layers.AdditiveCoupling, layers.AffineCoupling):
    coupling = cls(width=16, seed=0)
    coupling(points)
    move_weights(coupling)
    z, log_det = coupling(points), coupling.log_det(points)
    error = np.abs(ops.convert_to_numpy(coupling.inverse(z)) - points).max()
    print(f"{cls.__name__:17} worst error of the inverse: {error:.0e}")
    images[cls.__name__] = z, log_det
for ax, (name, (z, log_det)) in zip(axes, images.items(), strict=True):
    z = ops.convert_to_numpy(z).reshape(square.shape)
    ax.plot(z[::4, :, 0].T, z[::4, :, 1].T, "k", linewidth=0.5)
    ax.plot(z[:, ::4, 0], z[:, ::4, 1], "k", linewidth=0.5)
    colours = ax.scatter(
        *z.reshape(-1, 2).T, s=8, c=log_det, cmap="RdBu", vmin=-0.5, vmax=0.5
    )
    ax.set(title=name, xlabel="channel 0", ylabel="channel 1")
fig.colorbar(colours, ax=axes, label="log_det (nats)")
fig.savefig(RUN / "coupling.png")

# %% [markdown]
# ## A bijection of your own, and a first flow
#
# A subclass of `Bijection` writes `_forward(x) -> (z, log_det)` and
# `_inverse(z)`; the rest follows. Here is a chain of bijections, which is one
# itself, made of `FlowStep`s (ActNorm, permutation, coupling). Fitted to two
# moons it is a whole normalizing flow. The loss is the likelihood above:
# `StandardNormalNLL` on z, plus the `-mean(log_det)` that the layer adds.


# %%
class Chain(layers.Bijection):
    """Bijections one after another."""

    def __init__(self, bijections, **kwargs):
        super().__init__(**kwargs)
        self.bijections = bijections

    def build(self, input_shape):
        for bijection in self.bijections:
            bijection.build(input_shape)

    def _forward(self, x):
        log_det = self.zero_log_det(x)
        for bijection in self.bijections:
            x, log_det = bijection(x, log_det=log_det)
        return x, log_det

    def _inverse(self, z):
        for bijection in reversed(self.bijections):
            z = bijection.inverse(z)
        return z


moons, which = make_moons(2048, noise=0.06, random_state=0)
moons = ((moons - moons.mean(0)) / moons.std(0)).astype("float32")
moons = moons.reshape(-1, 1, 1, 2)

chain = Chain(
    [layers.FlowStep(width=32, seed=seed) for seed in range(FLOW_STEPS)]
)
inputs = keras.Input((1, 1, 2))
flow = keras.Model(inputs, chain(inputs))
flow.compile(keras.optimizers.Adam(3e-3), loss=StandardNormalNLL())
history = flow.fit(
    moons, moons, epochs=FLOW_EPOCHS, batch_size=128, verbose=0
).history

# %% [markdown]
# Left to right: the data; what they become (round, if the flow fits: the grey
# circles hold 39 % and 86 % of a standard normal); new points, drawn as normal
# noise and decoded by `chain.inverse`; and the density, by the formula at the
# top.

# %%
z = ops.convert_to_numpy(chain(moons)).reshape(-1, 2)
noise = rng.normal(size=(2048, 1, 1, 2)).astype("float32")
drawn = ops.convert_to_numpy(chain.inverse(noise)).reshape(-1, 2)

ticks = np.linspace(-2.5, 2.5, 100, dtype="float32")
plane = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 1, 1, 2)
log_normal = -0.5 * ops.sum(chain(plane) ** 2 + np.log(2 * np.pi), (1, 2, 3))
density = np.exp(log_normal + chain.log_det(plane)).reshape(100, 100)

fig, axes = plt.subplots(1, 4, figsize=(15, 4))
panels = ("data x", moons.reshape(-1, 2)), ("latents z", z)
for ax, (title, xy) in zip(axes, panels, strict=False):
    for moon, colour in enumerate(("tab:blue", "tab:orange")):
        ax.scatter(*xy[which == moon].T, s=3, c=colour, label=f"moon {moon}")
    ax.set(title=title, xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
    ax.legend(loc="lower left")
for radius in (1, 2):
    axes[1].add_patch(plt.Circle((0, 0), radius, fill=False, color="grey"))
axes[2].scatter(*drawn.T, s=3, c="black")
axes[2].set(title="samples", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
colours = axes[3].imshow(
    density, origin="lower", extent=(-2.5, 2.5, -2.5, 2.5), cmap="magma"
)
axes[3].set_title("density of the model")
fig.colorbar(colours, ax=axes[3], label="p(x)")
for ax in axes:
    ax.set(xlabel="channel 0", ylabel="channel 1", aspect="equal")
fig.savefig(RUN / "moons.png")

fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(range(1, FLOW_EPOCHS + 1), history["loss"], label="two moons")
ax.set(xlabel="epoch", ylabel="negative log-likelihood (nats)")
ax.legend()
fig.savefig(RUN / "moons_loss.png")

# %% [markdown]
# ## Split
#
# At the end of every level but the last, half of the channels leave the flow:
# finer detail leaves early, and the rest of the layers has less to do. They
# leave *standardised*: a convolution of the kept half predicts their mean and
# scale, and `latent = (z - mu(kept)) / sigma(kept)`. Its log-det is
# -sum(log sigma).
#
# Fitted to patches of the cat, a single Split behind a Squeeze learns to
# predict the lower row of each 2x2 block from the upper row. What it cannot
# predict, whiskers and fur, is what is left in the latent. (`GaussianPrior`
# does the same to the last latent, with a mean and scale that depend on nothing
# or on a class.)

# %%
photo = (skimage.data.chelsea() / 256 - 0.5).astype("float32")
corners = rng.integers((284, 435), size=(512, 2))
patches = np.stack([photo[i : i + 16, j : j + 16] for i, j in corners])

split = layers.Split()
inputs = keras.Input((16, 16, 3))
kept, latent = split(squeeze(inputs))
model = keras.Model(inputs, latent)
model.compile(keras.optimizers.Adam(1e-2), loss=StandardNormalNLL())
before = model.evaluate(patches, patches, verbose=0)
model.fit(patches, patches, epochs=SPLIT_EPOCHS, batch_size=32, verbose=0)
after = model.evaluate(patches, patches, verbose=0)
print(f"nats per patch before {before:.0f}, after {after:.0f}")

kept, latent = split(squeezed)
fig, axes = plt.subplots(1, 3, figsize=(11, 4))
show(axes[0], kept[0, ..., :3], "kept: the pixels of the upper row")
show(axes[1], squeezed[0, ..., 6:9], "what leaves, as it is")
show(axes[2], latent[0, ..., :3] / 6, "what leaves, standardised (/ 6)")
fig.savefig(RUN / "split.png")

# %% [markdown]
# ## Is it all true?
#
# Two things make a flow right: the inverse undoes the forward map, and the
# log-det is that of the Jacobian. For images of a few pixels the Jacobian can
# be had from automatic differentiation in full, so here is every layer in
# float64, with its weights moved off their start, against `slogdet` of it.
# (The tests of keras_glow do the same on three backends.)


# %%
def flat(outputs):
    """One row per example, of one tensor or of the two of a Split."""
    return ops.concatenate(
        [ops.reshape(t, (t.shape[0], -1)) for t in keras.tree.flatten(outputs)],
        axis=1,
    )


def jacobian(layer, example):
    """dz/dx of one example, shape (D, D)."""
    example = tf.constant(example[None])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(example)
        z = flat(layer(example))
    rows = tape.jacobian(z, example, experimental_use_pfor=False)
    return rows.numpy().reshape(z.shape[1], z.shape[1])


every_layer = [
    layers.Squeeze(dtype="float64"),
    layers.ActNorm(dtype="float64"),
    layers.Reverse(dtype="float64"),
    layers.Shuffle(seed=0, dtype="float64"),
    layers.InvertibleConv1x1(seed=0, dtype="float64"),
    layers.AdditiveCoupling(width=8, seed=0, dtype="float64"),
    layers.AffineCoupling(width=8, seed=0, dtype="float64"),
    layers.FlowStep(width=8, seed=0, dtype="float64"),
    layers.Split(dtype="float64"),
    layers.GaussianPrior(dtype="float64"),
]
tiny = rng.normal(size=(2, 2, 2, 4))
print("layer              error of inverse     log_det  of the Jacobian")
for layer in every_layer:
    layer(tiny)
    move_weights(layer, size=0.3)
    error = np.abs(layer.inverse(layer(tiny)) - tiny).max()
    log_det = ops.convert_to_numpy(layer.log_det(tiny))
    _, expected = np.linalg.slogdet([jacobian(layer, image) for image in tiny])
    print(
        f"{type(layer).__name__:18} {error:16.0e} {log_det[0]:11.6f}"
        f"  {expected[0]:15.6f}"
    )
    np.testing.assert_allclose(error, 0, atol=1e-12)
    np.testing.assert_allclose(log_det, expected, rtol=1e-9, atol=1e-9)

# %% [markdown]
# Next: `02_train_mnist` stacks these layers into `keras_glow.Glow` and trains
# it.
