"""Arguments of Keras' methods that have no meaning for a flow.

`docs/keras.md` says of every other argument what it does.
"""

from keras_glow.checks import refuse

EQUAL = "the likelihood weighs all images alike"
NO_TARGETS = "there are no targets; `bits_per_dim` is always computed"
NOT_WEIGHTS = "it maps images to uint8, and leaves weights as they are"
REFUSED = {
    "class_weight": EQUAL,
    "sample_weight": EQUAL,
    "loss_weights": "there is one loss",
    "metrics": NO_TARGETS,
    "weighted_metrics": NO_TARGETS,
    "mode": NOT_WEIGHTS,
    "config": NOT_WEIGHTS,
    "filters": NOT_WEIGHTS,
}


def refuse_arguments(**given):
    """Refuses arguments of `REFUSED`, unless they ask for nothing."""
    for name, value in given.items():
        empty = isinstance(value, (list, tuple, dict)) and not value
        if not (value is None or value is False or empty):
            refuse(name, f"left out: {REFUSED[name]}", value)
