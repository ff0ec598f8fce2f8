"""How any flow is fitted to images: compile, fit, evaluate."""

import contextlib
import typing
from collections.abc import Sequence

import keras
import numpy as np
import numpy.typing as npt

from keras_glow.backend.devices import count_processes, gather_from_processes
from keras_glow.backend.keras_internals import (
    is_called_by_fit,
    restore_weights_on_error,
)
from keras_glow.backend.process import keep_freed_memory, return_freed_memory
from keras_glow.checks import (
    check_boolean,
    check_choice,
    check_fraction,
    check_integer,
    plain_arrays,
    refuse,
)
from keras_glow.data import open_images, open_validation_data, plain_data
from keras_glow.flow.initialization import (
    INITIALIZATION_IMAGES,
    initialize,
    is_initialized,
)
from keras_glow.flow.prediction import with_conditions
from keras_glow.layers.chain import share_traces
from keras_glow.losses import StandardNormalNLL, flow_dtype
from keras_glow.training.arguments import refuse_arguments
from keras_glow.training.divergence import StopIfDiverged
from keras_glow.training.ema import (
    HoldAverages,
    averaged_weights,
    put_averages,
    without_swaps,
)
from keras_glow.training.flow_loss import FlowLoss
from keras_glow.training.optimizer import (
    batches_seen,
    check_compiled,
    check_trained,
    guarded,
)


class TrainableFlow(FlowLoss):
    """Fits a flow to images by maximum likelihood."""

    def compile(
        self,
        optimizer: typing.Any = "adam",
        loss: typing.Any = None,
        loss_weights: None = None,
        metrics: None = None,
        weighted_metrics: None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: a Keras optimiser or its name. With networks in float16
                it gets a `keras.optimizers.LossScaleOptimizer` around it,
                unless `auto_scale_loss` is False. If it is the one that the
                model has, it keeps its state.
            loss: None, for `keras_glow.losses.StandardNormalNLL()`. A loss
                of Keras's own would compare latents with themselves.
            jit_compile: bool, or `"auto"`, by which Keras does without XLA
                on Torch and, on TensorFlow, on a CPU or several devices.
            loss_weights: None; there is one loss.
            metrics: None; there are no targets.
            weighted_metrics: None.
            run_eagerly: bool, as in `keras.Model.compile`.
            steps_per_execution: int >= 1, as in `keras.Model.compile`.
            auto_scale_loss: bool, as in `keras.Model.compile`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        if not (loss is None or isinstance(loss, StandardNormalNLL)):
            refuse(
                "loss", "None or a keras_glow.losses.StandardNormalNLL", loss
            )
        flow_dtype()  # refuses a floatx of half precision
        refuse_arguments(
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
        )
        run_eagerly = check_boolean("run_eagerly", run_eagerly)
        check_boolean("auto_scale_loss", auto_scale_loss)
        check_integer("steps_per_execution", steps_per_execution, 1)
        check_choice("jit_compile", jit_compile, (True, False, "auto"))
        if run_eagerly and jit_compile == "auto":
            jit_compile = False
        super().compile(
            optimizer=guarded(
                optimizer,
                self.network_dtype if auto_scale_loss else None,
                getattr(self, "optimizer", None),
            ),
            loss=StandardNormalNLL() if loss is None else loss,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
        )
        share_traces(self.encoder, not self.jit_compile)
        # Keras would run the model once more to learn the shape of its output,
        # and would leave the labels out.
        z = keras.KerasTensor((None, self.dimensions), self.dtype)
        self._compile_loss.build(z, z)

    def compile_from_config(self, config):
        # The file may come from another backend, so XLA is decided on anew.
        config = {k: v for k, v in config.items() if k != "jit_compile"}
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def fit(
        self,
        x: typing.Any = None,
        y: npt.ArrayLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: typing.Any = None,
        shuffle: bool = True,
        class_weight: None = None,
        sample_weight: None = None,
        **kwargs,
    ) -> keras.callbacks.History:
        """Trains the model, as `keras.Model.fit` does.

        The order of an array's images is a function of the model's seed and of
        the epoch; no global random state is touched. A dataset has its own.
        Where steps are compiled (JAX, or TensorFlow by XLA), a smaller last
        batch of a shuffled epoch is left out, unless it is the only one or
        `steps_per_epoch` is set: it would be compiled anew.

        Before a model's very first step, ActNorm is set from 256 dequantised
        images. With `memory="reversible"` every `fit` begins with a check of
        the inverses on a few of them.

        A step whose loss or gradient is not finite is left out, and counted in
        `skipped_steps` of the logs. Ten of them in a row end the training. In
        float16 the LossScaleOptimizer leaves steps out, and counts none.

        Args:
            x: images, or a dataset of images or of (images, y).
            y: labels or context, beside an array of images; `(labels, context)`
                for a model that takes both.
            batch_size: int >= 1, or None for 32; a dataset has its own.
            epochs: int >= 1, the number of the last epoch.
            verbose: as in `keras.Model.fit`.
            callbacks: list of keras.callbacks.Callback.
            validation_split: float in [0, 1), part of an array, taken from its
                end, to validate on if there is no `validation_data`.
            validation_data: images, `(images, y)`, `(images, None)` or a
                dataset.
            shuffle: bool, whether an array is shuffled anew each epoch.
            class_weight: None; all images weigh the same.
            sample_weight: None.
            **kwargs: other arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss` in nats per image and of
            `bits_per_dim`, or `nats_per_dim` of floats, of both with the prefix
            `val_` for validation data, and of `skipped_steps`, counted since
            the model was compiled.

        Raises:
            ValueError: if the images are not what the model takes, or another
                argument is not as described, naming it; with
                `memory="reversible"`, if the inverse of a step is not accurate
                enough, naming it. A compiled program cannot raise: bad
                values in later batches of a dataset make the loss NaN.
            TrainingDiverged: after ten steps left out in a row.
        """
        check_trained(self)
        refuse_arguments(class_weight=class_weight, sample_weight=sample_weight)
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        epochs = check_integer("epochs", epochs, 1)
        shuffle = check_boolean("shuffle", shuffle)
        validation_size = kwargs.get("validation_batch_size") or batch_size
        source, validation_data = self._open_both(
            x, y, validation_data, validation_split, validation_size
        )
        self._set_up(source)
        batches = source.for_training(
            batch_size or 32,
            self.seed,
            batches_seen(self.optimizer),
            shuffle,
            equal=self._equal_batches() and not kwargs.get("steps_per_epoch"),
        )
        self._build_optimizer()
        keeps_memory = self.memory == "store" and keep_freed_memory()
        try:
            with restore_weights_on_error(self):
                return super().fit(
                    batches.data,
                    epochs=epochs,
                    verbose=verbose,
                    callbacks=[
                        HoldAverages(),
                        _Begin(source),
                        StopIfDiverged(source),
                        *batches.callbacks,
                        *without_swaps(self, callbacks)[0],
                    ],
                    validation_data=validation_data,
                    shuffle=batches.shuffle,
                    **kwargs,
                )
        except BaseException:
            put_averages(self, False)
            raise
        finally:
            # Keras leaves the epoch that `BackupAndRestore` went back to, from
            # which the next `fit` would begin.
            self._initial_epoch = None
            if keeps_memory:
                return_freed_memory()

    def _open_both(self, x, y, validation_data, fraction, batch_size):
        """Returns the source of training, and the data to validate on."""
        source = open_images(x, y, self.image_format, self.conditions)
        if validation_data is not None:
            validation = open_validation_data(
                validation_data, self.image_format, self.conditions
            )
            validation.peek()  # before the first epoch, not after it
        elif check_fraction("validation_split", fraction):
            source, validation = source.split(fraction)
        else:
            return source, None
        data, self._validated = self._to_evaluate(validation, batch_size)
        return source, data

    def _build_optimizer(self):
        # Inside the traced step it would take three times as long. A loss scale
        # that was built twice would have its variables twice, and begin anew.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _set_up(self, source):
        """Sets ActNorm once, and checks the inverses if they are needed."""
        if self.memory != "reversible" and is_initialized(self.encoder):
            source.peek()
            return
        images, *given = map(
            gather_from_processes,
            source.first(INITIALIZATION_IMAGES, self.seed),
        )
        inputs = self.dequantize(images, seed=self.seed)
        initialize(self.encoder, with_conditions(inputs, given))

    def train_on_batch(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        sample_weight: None = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> typing.Any:
        """Takes one step on a batch, as `keras.Model.train_on_batch` does.

        Before a model's very first step, ActNorm is set from the batch.
        """
        check_trained(self)
        refuse_arguments(class_weight=class_weight, sample_weight=sample_weight)
        batch = self._open_batch(x, y)
        self._set_up(batch)
        self._build_optimizer()
        put_averages(self, False)
        with restore_weights_on_error(self):
            return super().train_on_batch(
                batch.images, batch.targets, return_dict=return_dict
            )

    def test_on_batch(
        self,
        x: npt.ArrayLike,
        y: npt.ArrayLike | None = None,
        sample_weight: None = None,
        return_dict: bool = False,
    ) -> typing.Any:
        """Returns loss and bits/dim of a batch, the same at every call."""
        refuse_arguments(sample_weight=sample_weight)
        batch = self._open_batch(x, y)
        self._count = None
        with restore_weights_on_error(self):
            return super().test_on_batch(
                batch.images, batch.targets, return_dict=return_dict
            )

    def predict(self, x: typing.Any, *args, **kwargs) -> typing.Any:
        """Returns latents, as `keras.Model.predict` does; see `call`."""
        with restore_weights_on_error(self):
            return super().predict(plain_data(x), *args, **kwargs)

    def predict_on_batch(self, x: typing.Any) -> np.ndarray:
        """Returns the latents of a batch; see `call`."""
        return super().predict_on_batch(plain_arrays(x, "x"))

    def quantize(
        self,
        x: npt.ArrayLike | None = None,
        mode: typing.Any = None,
        config: typing.Any = None,
        filters: typing.Any = None,
    ) -> np.ndarray:
        """Maps continuous images to uint8, each value to the bin that holds it.

        It has the arguments of `keras.Model.quantize` in order to refuse them.

        Raises:
            ValueError: if a value is no number, or not finite.
        """
        if isinstance(x, str):
            mode = x
        refuse_arguments(mode=mode, config=config, filters=filters)
        return super().quantize(x)

    def _open_batch(self, x, y):
        batch = open_images(x, y, self.image_format, self.conditions)
        if not hasattr(batch, "images"):
            refuse("x", "one batch of images", x)
        return batch

    def evaluate(
        self,
        x: typing.Any = None,
        y: npt.ArrayLike | None = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: None = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        context: npt.ArrayLike | None = None,
        **kwargs,
    ) -> typing.Any:
        """Returns loss and bits/dim on data, as `keras.Model.evaluate` does.

        The noise of image i is the same at every call and for every batch size.
        While `fit` runs with `use_ema=True`, the averaged weights are
        evaluated.

        Args:
            x: images, or a dataset, see `fit`.
            y: labels, or context, beside an array of images, see `fit`.
            batch_size: int >= 1, or None for 32; a dataset has its own.
            verbose: as in `keras.Model.evaluate`.
            sample_weight: None; all images weigh the same.
            steps: int, batches to evaluate, or None for all.
            callbacks: list of keras.callbacks.Callback.
            return_dict: bool, as in `keras.Model.evaluate`.
            context: of an array of images, if it is not in y.
            **kwargs: for Keras' own use.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        check_compiled(self)
        refuse_arguments(sample_weight=sample_weight)
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        swap = False
        if is_called_by_fit(kwargs):  # which has checked x
            self._count = self._validated
        else:
            y = self.conditions.put_together(y, context)
            source = open_images(x, y, self.image_format, self.conditions)
            source.peek()
            (x, y), self._count = self._to_evaluate(source, batch_size)
            callbacks, swap = without_swaps(self, callbacks)
        weights = averaged_weights(self) if swap else contextlib.nullcontext()
        with weights, restore_weights_on_error(self):
            return super().evaluate(
                x,
                y,
                batch_size,
                verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def _equal_batches(self):
        """Returns whether a batch of another size would be compiled anew."""
        return self.jit_compile and count_processes() == 1

    def _to_evaluate(self, source, batch_size):
        """Returns x and y for Keras, and how many images count, or None."""
        equal = self._equal_batches()
        data = source.for_evaluation(batch_size, equal)
        return (data, None), source.count if equal else None


class _Begin(keras.callbacks.Callback):
    """Checks the state that other callbacks have left, before each epoch.

    `BackupAndRestore` may have gone back to another epoch, whose images are to
    come in the order of that epoch.
    """

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.first = True

    def on_epoch_begin(self, epoch, logs=None):
        check_trained(self.model)
        if self.first:
            self.source.seek(batches_seen(self.model.optimizer))
            self.first = False
