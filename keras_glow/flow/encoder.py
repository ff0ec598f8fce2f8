"""The functional model from images to latents."""

import keras

from keras_glow.backend.keras_internals import restore_weights_on_error
from keras_glow.data import open_inputs
from keras_glow.flow.initialization import (
    INITIALIZATION_IMAGES,
    check_inverses,
    initialize,
)


@keras.saving.register_keras_serializable(package="keras_glow")
class Encoder(keras.Model):
    """A functional model of latents that can be trained by itself.

    Compile it with `keras_glow.losses.StandardNormalNLL()` and fit it to
    continuous images, or to `[images, labels]` if it takes both; targets are
    ignored. ActNorm is set before the first step, as in `Glow.fit`.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        return super().compute_loss(x, y_pred, y_pred, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        if isinstance(x, (list, tuple)):  # the same rows of each
            first = [
                open_inputs(a).first(INITIALIZATION_IMAGES, seed=0) for a in x
            ]
        else:
            source = open_inputs(x)
            first = source.first(INITIALIZATION_IMAGES, seed=0)
            x = source.data
        initialize(self, first)
        check_inverses(self, first)
        with restore_weights_on_error(self):
            return super().fit(x, *args, **kwargs)
