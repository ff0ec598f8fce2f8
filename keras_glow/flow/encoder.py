"""The functional models between images and latents."""

import keras

from keras_glow.backend.keras_internals import (
    KeepsLosses,
    PassesTrainableOn,
    only_calls_of,
    restore_weights_on_error,
)
from keras_glow.checks import (
    kind_of,
    plain_arrays,
    refuse,
    shape_fits,
    shape_of,
)
from keras_glow.data import open_inputs, plain_data
from keras_glow.flow.initialization import INITIALIZATION_IMAGES, initialize
from keras_glow.losses import flow_dtype, settled_policy


@keras.saving.register_keras_serializable(package="keras_glow")
class FlowModel(PassesTrainableOn, KeepsLosses, keras.Model):
    """A functional model that refuses inputs of another shape in one line."""

    dtype_policy = settled_policy

    def __call__(self, inputs, *args, **kwargs):
        inputs = plain_arrays(inputs, tensors=True)
        if not isinstance(inputs, dict):  # Keras takes one by its names.
            self._check_inputs(keras.tree.flatten(inputs))
        return super().__call__(inputs, *args, **kwargs)

    def summary(self, *args, **kwargs):
        with only_calls_of(self, self.operations):
            super().summary(*args, **kwargs)

    def predict(self, x, *args, **kwargs):
        with restore_weights_on_error(self):
            return super().predict(plain_data(x), *args, **kwargs)

    def predict_on_batch(self, x):
        return super().predict_on_batch(plain_arrays(x, "x"))

    def evaluate(self, x=None, *args, **kwargs):
        with restore_weights_on_error(self):
            return super().evaluate(plain_data(x), *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        with restore_weights_on_error(self):
            return super().test_on_batch(plain_arrays(x, "x"), *args, **kwargs)

    def _check_inputs(self, tensors):
        if len(tensors) != len(self.inputs):
            names = " and ".join(tensor.name for tensor in self.inputs)
            refuse("inputs", names, tensors)
        for tensor, own in zip(tensors, self.inputs, strict=True):
            shape = shape_of(tensor) if kind_of(tensor) != "O" else ()
            # Keras takes labels as a column too.
            if own.ndim > 1 and not shape_fits(shape, own.shape):
                shape = ", ".join(map(str, ("batch", *own.shape[1:])))
                refuse(own.name, f"floats of shape ({shape})", tensor)
        sizes = {shape_of(tensor)[:1] for tensor in tensors} - {(None,)}
        if len(sizes) > 1:
            refuse("inputs", "of one batch size", tensors)


@keras.saving.register_keras_serializable(package="keras_glow")
class Encoder(FlowModel):
    """A functional model of latents that can be trained by itself.

    Compile it with `keras_glow.losses.StandardNormalNLL()` and fit it to
    continuous images, or to `[images, labels]` if it takes both; targets are
    ignored. ActNorm is set before the first step, as in `Glow.fit`.
    """

    def _check_floatx(self):
        flow_dtype()  # Keras would round x to half precision.
        # On TensorFlow it cannot add its loss, in floatx, to those of layers.
        floatx, own = keras.config.floatx(), self.inputs[0].dtype
        if floatx != own:
            refuse("keras.config.floatx()", f"{own}, as this model", floatx)

    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        return super().compute_loss(x, y_pred, y_pred, *args, **kwargs)

    def fit(self, x=None, *args, **kwargs):
        self._check_floatx()
        x = plain_arrays(x, "x")
        if isinstance(x, (list, tuple)):  # the same rows of each
            first = [
                open_inputs(a).first(INITIALIZATION_IMAGES, seed=0)[0]
                for a in x
            ]
        else:
            source = open_inputs(x)
            (first,) = source.first(INITIALIZATION_IMAGES, seed=0)
            x = source.data
        initialize(self, first)
        with restore_weights_on_error(self):
            return super().fit(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self._check_floatx()
        x = plain_arrays(x, "x")
        initialize(self, x)
        with restore_weights_on_error(self):
            return super().train_on_batch(x, *args, **kwargs)
