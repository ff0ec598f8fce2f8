# %% [markdown]
# # Images given something that is known
#
# A Glow with `context_shape` learns p(image given context). Here the context is
# a tiny version of a face, 4x4 pixels, and the model draws faces that may be
# behind it: several answers to one question.
#
# Real faces (CelebA, for non-commercial research, not to be passed on) are only
# trained on and scored. Those that are shown were drawn: by the preset
# `faces32`, whose faces are made small to ask the questions, and by the model
# that answers. Without the data folder the grey face patches that scikit-image
# ships take the place of CelebA (see `notebook_tools.py`).
#
# In the full setting this takes about five minutes on two free CPU cores; with
# `KERAS_GLOW_QUICK=1` it takes half a minute and shows only that everything
# runs.

# %%
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Faster convolutions, where TensorFlow would leave them out.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import notebook_tools as tools
import numpy as np

import keras_glow

QUICK = os.environ.get("KERAS_GLOW_QUICK") == "1"
print("Quick setting" if QUICK else "Full setting")
EPOCHS = 1 if QUICK else 12
COUNT = 64 if QUICK else 8_000

RUN = pathlib.Path("runs/06_context")  # all that is written goes here
RUN.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Questions
#
# The means of 4x4 blocks of a 16x16 face.


# %%
def small(images):
    """The means of blocks, float `(count, 4, 4, 3)`."""
    blocks = images.reshape(len(images), 4, 4, 4, 4, 3)
    return blocks.mean((2, 4), dtype="float32")


faces, unseen, name = tools.faces(16, COUNT)
print(f"{len(faces)} faces to train on, {len(unseen)} of other people: {name}")

# %% [markdown]
# ## Training
#
# The context stands beside the images, as labels would. `ImageSequence` mirrors
# both alike.

# %%
model = keras_glow.Glow(
    (16, 16, 3),
    levels=2,
    depth=4,
    width=32,
    network="residual",
    context_shape=(4, 4, 3),
)
batches = keras_glow.data.ImageSequence(
    faces, small(faces), batch_size=32, flip=True
)
steps = EPOCHS * len(batches)
rate = keras_glow.schedules.warmup_cosine(4e-3, steps, steps // 10)
model.compile(keras.optimizers.Adam(rate, global_clipnorm=100.0))
history = model.fit(
    batches,
    epochs=EPOCHS,
    validation_data=(unseen, small(unseen)),
    verbose=0,
)
print(f"{history.history['val_bits_per_dim'][-1]:.3f} bits/dim on unseen faces")

# %% [markdown]
# ## What the context is worth
#
# Given the small version of another face, the same faces are far less likely.

# %%
told = model.bits_per_dim(unseen, context=small(unseen), seed=0)
lied = model.bits_per_dim(unseen, context=small(unseen[::-1]), seed=0)
print(f"given its own small face: {told.mean():.3f} bits/dim")
print(f"given another's:          {lied.mean():.3f} bits/dim")
z = model.encode(unseen, context=small(unseen))
back = model.decode(z, context=small(unseen))
print(f"pixels lost on the way there and back: {(back != unseen).sum()}")

# %% [markdown]
# ## Several answers
#
# Left, the face that was drawn by the preset; beside it what is known of it, as
# 4x4 pixels; then six answers at temperature 0.7. How far their small versions
# are from the question is printed, in grey levels.

# %%
drawn = keras_glow.Glow.from_preset("faces32").sample(
    4, temperature=0.7, seed=5
)
questions = drawn.reshape(4, 16, 2, 16, 2, 3).mean((2, 4)).astype("uint8")
asked = small(questions)
answers = model.sample(24, 0.7, seed=0, context=asked.repeat(6, axis=0))
error = small(answers) - asked.repeat(6, axis=0)
print(f"answers miss the question by {np.sqrt(np.mean(error**2)):.1f} levels")
spread = answers.reshape(4, 6, -1).std(axis=1).mean()
print(f"answers to one question differ by {spread:.1f} levels")
seen = asked.repeat(4, axis=1).repeat(4, axis=2).astype("uint8")
rows = np.concatenate(
    [questions[:, None], seen[:, None], answers.reshape(4, 6, 16, 16, 3)],
    axis=1,
)
tools.show(
    rows.reshape(-1, 16, 16, 3),
    RUN / "answers.png",
    "A drawn face, what is known of it, and six answers",
    columns=8,
)
