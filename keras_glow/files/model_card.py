"""Writes the card that lies beside a saved model."""

import inspect

import keras

from keras_glow.flow.arguments import ARGUMENTS

TEXT = """# {name}

{description}

`keras_glow.Glow.from_preset("{name}")`, or `keras-glow sample {name}{labels} \
--grid samples.png`.

| | |
|---|---|
{table}

## Data and their terms

What was it trained on, and under which terms may that be used?

## Use and limits

What is it for, and what not? Whom does it show well, and whom not?
"""


def model_card(model, name, description):
    """Returns Markdown on a `Glow`: what can be known, and what to fill in.

    `name` is that of the folder that it is saved in.
    """
    rows = {"model": f"`{_constructor(model)}`"}
    rows["parameters"] = f"{model.count_params():,}"
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer.built:
        rows["training steps"] = f"{int(optimizer.iterations):,}"
    history = getattr(getattr(model, "history", None), "history", {})
    for key, images in (("", "training"), ("val_", "validation")):
        if values := history.get(f"{key}bits_per_dim"):
            rows[f"bits/dim on {images} images, last epoch"] = (
                f"{values[-1]:.3f}"
            )
    rows["written by"] = f"Keras {keras.__version__}, {keras.backend.backend()}"
    return TEXT.format(
        name=name,
        description=description or "What it draws, in a sentence.",
        labels=" --labels 0" if model.num_classes else "",
        table="\n".join(f"| {key} | {text} |" for key, text in rows.items()),
    )


def _constructor(model):
    """Returns the call that builds a model, without the defaults."""
    parameters = inspect.signature(type(model)).parameters
    config = model.get_config()
    arguments = [repr(tuple(config["image_shape"]))]
    for argument in ARGUMENTS:
        value = config[argument]
        # A policy and None name one type of the networks.
        default = (
            model.dtype
            if argument == "network_dtype"
            else parameters[argument].default
        )
        if argument != "image_shape" and value not in (default, []):
            arguments.append(f"{argument}={value!r}")
    return f"{type(model).__name__}({', '.join(arguments)})"
