# %% [markdown]
# # The latent space of faces
#
# A Glow turns every face into D numbers and every D numbers into a face. Here
# is what lies between two faces, which direction is a smile, and what each
# level of the latents is for.
#
# The faces that are shown and edited are all drawn from the model. Real faces
# (CelebA, for non-commercial research, not to be passed on) are only encoded:
# their latents give the directions, and nothing of them is shown. Without the
# data folder the face patches that scikit-image ships take their place (see
# `notebook_tools.py`); they come without attributes, so the direction is then
# that of bright pictures.
#
# In the full setting this takes some 4 minutes on two free CPU cores; with
# `KERAS_GLOW_QUICK=1` it takes 20 seconds and shows only that everything runs.

# %%
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import notebook_tools as tools
import numpy as np

import keras_glow

QUICK = os.environ.get("KERAS_GLOW_QUICK") == "1"
print("Quick setting" if QUICK else "Full setting")
ENCODED_FACES = 256 if QUICK else 10_000

RUN = pathlib.Path("runs/05_latent_space")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)
plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# ## A model
#
# A small one is trained here.


# %%
def trained_here():
    """A small model of faces."""
    size, levels, depth, width = (16, 2, 1, 16) if QUICK else (32, 3, 4, 64)
    epochs = 2 if QUICK else 5
    images, _, _ = tools.faces(size, 256 if QUICK else 6_000)
    model = keras_glow.Glow(
        (size, size, 3), levels=levels, depth=depth, width=width, seed=0
    )
    batches = keras_glow.data.ImageSequence(images, flip=True, seed=0)
    steps = epochs * len(batches)
    schedule = keras_glow.schedules.warmup_cosine(4e-3, steps, steps // 10)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1e5))
    history = model.fit(batches, epochs=epochs, verbose=0).history
    print(f"trained to {history['bits_per_dim'][-1]:.2f} bits/dim")
    return model


model = trained_here()
SIZE, D = model.image_shape[0], model.dimensions
print(f"D = {D}, levels of latents: {model.latent_shapes}")

# %% [markdown]
# `sample` draws the latents itself. To edit a face we need them in our hands: D
# standard normal numbers times a temperature, to be decoded.

# %%
rng = np.random.default_rng(1)
TEMPERATURE = 0.7


def draw(count):
    """Latents of `count` faces, `(count, D)`."""
    return TEMPERATURE * rng.standard_normal((count, D), "float32")


# %% [markdown]
# ## From one face to another
#
# Two ways from z of one face to z of another: along the straight line, or along
# the great circle (spherical). In D dimensions normal latents lie close to a
# sphere of radius temperature x sqrt(D). The straight line cuts through it:
# half way, the temperature has dropped by a factor of sqrt(2), and the face in
# the middle is smoother, more average than both ends. The circle keeps the
# temperature.


# %%
def linear(a, b, t):
    """Between latents a and b, along the straight line."""
    return (1 - t) * a + t * b


def spherical(a, b, t):
    """Between latents a and b, at even steps of the angle."""
    cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


ways = (linear, spherical)
pairs = draw(6).reshape(3, 2, D)
shares = np.linspace(0, 1, 9, dtype="float32")
paths = np.stack(
    [[way(a, b, t) for t in shares] for a, b in pairs for way in ways]
)
tools.show(
    model.decode(paths.reshape(-1, D)),
    RUN / "interpolation.png",
    "Three pairs of samples and what lies between them",
    columns=len(shares),
    rows=[way.__name__ for way in ways] * len(pairs),
)

fig, ax = plt.subplots(figsize=(6, 3))
temperatures = np.sqrt((paths**2).mean(-1))  # of each of the images above
for number, way in enumerate(ways):
    mean = temperatures[number :: len(ways)].mean(0)
    ax.plot(shares, mean, "o-", label=way.__name__)
ax.set(
    xlabel="share of the second face",
    ylabel="|z| / sqrt(D), a temperature",
    ylim=(0, 1.2 * TEMPERATURE),
)
ax.legend()
fig.savefig(RUN / "interpolation_temperature.png")

# %% [markdown]
# ## The direction of a smile
#
# Encode real faces, and take the mean latent of those that smile minus the mean
# latent of those that do not. That is all (section 5.2 of
# [the paper](https://arxiv.org/abs/1807.03039)): the model was never told of
# smiles. Half of the faces give the direction; the other half show whether it
# knows: their latents are projected onto it.

# %%
faces, _, name = tools.faces(SIZE, ENCODED_FACES)
attributes = {
    name: values[: len(faces)].astype(bool)
    for name, values in tools.attributes().items()
    if name in ("Smiling", "Eyeglasses", "Male", "Bright")
}
z = model.encode(faces)
used = np.arange(len(z)) % 2 == 0  # for the directions
print(f"{len(z)} faces of {name}")

directions = {}
fig, axes = plt.subplots(
    1, len(attributes), figsize=(4 * len(attributes), 3), squeeze=False
)
for ax, (attribute, has) in zip(axes[0], attributes.items(), strict=True):
    direction = z[used & has].mean(0) - z[used & ~has].mean(0)
    directions[attribute] = direction
    # In units of the difference itself: the means are 1 apart, if it holds.
    projection = z @ direction / np.sum(direction**2)
    bins = np.histogram_bin_edges(projection[~used], 30)
    for group, label in ((has, attribute), (~has, f"not {attribute}")):
        values = projection[~used & group]
        ax.hist(values, bins, density=True, alpha=0.5, label=label)
    with_it, without = projection[~used & has], projection[~used & ~has]
    right = np.mean(with_it[:, None] > without)
    ax.set(
        title=f"pairs told apart: {right:.0%}",
        xlabel="projection of z (1 = the direction)",
        ylabel="density of held-out faces",
    )
    ax.legend()
fig.savefig(RUN / "projections.png")

# %% [markdown]
# Now the edit: along the direction from the latents of a *sampled* face, both
# ways. Each row is one face; its original is in the middle.
#
# A direction holds everything that goes together with the attribute in the
# data: glasses come with men and with age, and the edit may bring those along.

# %%
strengths = np.linspace(-2, 2, 9, dtype="float32")
originals = draw(3)
for attribute, direction in directions.items():
    edited = originals[:, None] + strengths[:, None] * direction
    tools.show(
        model.decode(edited.reshape(-1, D)),
        RUN / f"{attribute.lower()}.png",
        f"{attribute}: strength {strengths[0]:+.0f} to {strengths[-1]:+.0f}",
        columns=len(strengths),
        rows=[f"face {number}" for number in range(1, len(originals) + 1)],
    )

# %% [markdown]
# ## What each level holds
#
# The latents leave at several levels, finest first: `model.latent_shapes`.
# `temperature` may be one number for each. Below, the rows start with all
# levels at 0.7, and then the finest, the next, .. are set to 0, their mean.

# %%
LEVELS = model.levels
settings = [
    [0.0 if level < off else TEMPERATURE for level in range(LEVELS)]
    for off in range(LEVELS)
]
# And the other way: only the finest level is drawn.
settings.append([TEMPERATURE] + [0.0] * (LEVELS - 1))
samples = [model.sample(20, temperature, seed=2) for temperature in settings]
tools.show(
    np.concatenate([row[:12] for row in samples]),
    RUN / "level_temperatures.png",
    "Samples with a temperature for each level, finest first",
    columns=12,
    rows=[str(setting) for setting in settings],
)

# %% [markdown]
# Another view of the same: one sampled face in the first column, and beside it
# what becomes of it when the latents of a single level are drawn anew. The top
# level decides who it is; the finest one changes pixels that are hard to see.

# %%
stops = np.cumsum([np.prod(shape) for shape in model.latent_shapes])
one = draw(1)
rows = []
for stop, shape in zip(stops, model.latent_shapes, strict=True):
    row = np.repeat(one, 12, axis=0)
    level = slice(stop - np.prod(shape), stop)
    row[1:, level] = draw(11)[:, level]
    rows.append(row)
tools.show(
    model.decode(np.concatenate(rows)),
    RUN / "levels_drawn_anew.png",
    "One face, and the latents of one level drawn anew",
    columns=12,
    rows=[f"level {number}" for number in range(1, LEVELS + 1)],
)
