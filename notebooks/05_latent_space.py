# %% [markdown]
# # The latent space of faces
#
# A Glow turns every face into D numbers and every D numbers into a face. Here
# is what lies between two faces, which direction is a smile, what each level of
# the latents is for, and what may be behind a hole, all by `keras_glow.latent`.
#
# The faces that are shown and edited are all drawn from the model. Real faces
# (CelebA, for non-commercial research, not to be passed on) are only encoded:
# their latents give the directions, and nothing of them is shown. Without the
# data folder the face patches that scikit-image ships take their place (see
# `notebook_tools.py`); they come without attributes, so the direction is then
# that of bright pictures.
#
# In the full setting this takes a few minutes on two free CPU cores; with
# `KERAS_GLOW_QUICK=1` it takes half a minute and shows only that everything
# runs.

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
from keras_glow import latent

QUICK = os.environ.get("KERAS_GLOW_QUICK") == "1"
print("Quick setting" if QUICK else "Full setting")
ENCODED_FACES = 256 if QUICK else 5_000

RUN = pathlib.Path("runs/05_latent_space")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)
plt.rcParams["figure.constrained_layout.use"] = True

# %% [markdown]
# ## A model
#
# The one that comes with the package; for the quick setting, a tiny one is
# trained here.


# %%
def tiny_model():
    """A tiny model of faces, trained for some seconds."""
    images, _, _ = tools.faces(16, 256)
    model = keras_glow.Glow((16, 16, 3), levels=2, depth=1, width=16)
    model.compile(keras.optimizers.Adam(4e-3, global_clipnorm=1e5))
    history = model.fit(images, epochs=2, verbose=0).history
    print(f"trained to {history['bits_per_dim'][-1]:.2f} bits/dim")
    return model


model = tiny_model() if QUICK else keras_glow.Glow.from_preset("faces32")
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
ways = ("linear", "spherical")
pairs = draw(6).reshape(3, 2, D)
shares = np.linspace(0, 1, 9)
paths = np.stack(
    [
        latent.interpolate(pair, shares, spherical=way == "spherical")
        for pair in pairs
        for way in ways
    ]
)
tools.show(
    model.decode(paths.reshape(-1, D)),
    RUN / "interpolation.png",
    "Three pairs of samples and what lies between them",
    columns=len(shares),
    rows=ways * len(pairs),
)

fig, ax = plt.subplots(figsize=(6, 3))
temperatures = np.sqrt((paths**2).mean(-1))  # of each of the images above
for number, way in enumerate(ways):
    mean = temperatures[number :: len(ways)].mean(0)
    ax.plot(shares, mean, "o-", label=way)
ax.set(
    xlabel="share of the second face",
    ylabel="|z| / sqrt(D), a temperature",
    ylim=(0, 1.2 * TEMPERATURE),
)
ax.legend()
fig.savefig(RUN / "interpolation_temperature.png")

# %% [markdown]
# More than two can be blended, with any weights: here three, with more and more
# of the third, first without any. And a random walk leaves a face in small
# steps.

# %%
third = np.linspace(0, 1, 12)
weights = np.stack([(1 - third) / 2, (1 - third) / 2, third], axis=1)
three = draw(3)
blend = latent.interpolate(three, weights, spherical=True)
walk = latent.random_walk(three[:1], 11, temperature=TEMPERATURE, seed=1)
tools.show(
    model.decode(np.concatenate([blend, walk[:, 0]])),
    RUN / "blend_and_walk.png",
    "A blend of three, and a random walk",
    columns=12,
    rows=["blend", "walk"],
)

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
    direction = latent.attribute_direction(z[used], has[used])
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
# ways. Each row is one face; its original, every pixel of it, is in the middle.
#
# A direction holds everything that goes together with the attribute in the
# data: glasses come with men and with age, and the edit may bring those along.
# `latent.attribute_direction(z, labels, others)` takes the directions of other
# attributes out; `experiments/edits.py` measures what that helps.

# %%
strengths = np.linspace(-3, 3, 9)
originals = model.decode(draw(3))
for attribute, direction in directions.items():
    edited = latent.apply_direction(model, originals, direction, strengths)
    tools.show(
        np.concatenate(np.swapaxes(edited, 0, 1)),
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
one = np.repeat(draw(1), 12, axis=0)
rows = []
for level in range(1, LEVELS + 1):
    others = np.concatenate([one[:1], draw(11)])
    rows.append(latent.mix_levels(model, one, others, [level]))
tools.show(
    model.decode(np.concatenate(rows)),
    RUN / "levels_drawn_anew.png",
    "One face, and the latents of one level drawn anew",
    columns=12,
    rows=[f"level {number}" for number in range(1, LEVELS + 1)],
)

# %% [markdown]
# ## What may be behind a hole
#
# Some pixels are known, and the model fills in the others, as often as asked:
# `latent.inpaint` searches for latents whose image has the known pixels, near
# to random ones. The known pixels stay what they are.

# %%
sampled = model.decode(draw(3))
known = np.ones((SIZE, SIZE), bool)
known[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4] = False
filled, convergence = latent.inpaint(
    model, sampled, known, draws=4, steps=5 if QUICK else 100, seed=0
)
holes = np.where(known[..., None], sampled, 128).astype("uint8")
tools.show(
    np.concatenate([np.stack([sampled, holes], 1), filled], 1).reshape(
        -1, SIZE, SIZE, 3
    ),
    RUN / "inpainted.png",
    "Sampled, with a hole, and filled in four times",
    columns=6,
)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(convergence.loss.reshape(len(convergence.loss), -1), "C0", alpha=0.5)
ax.set(xlabel="step", ylabel="loss of each search, nats")
fig.savefig(RUN / "convergence.png")
