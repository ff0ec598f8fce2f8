"""How any flow is fitted to images: compile, fit, evaluate."""

import math

import keras
import numpy as np
from keras import ops

from keras_glow.backend.devices import (
    count_processes,
    count_replicas,
    gather_from_processes,
    replica_of_strategy,
    shift_noise_by_replica,
)
from keras_glow.backend.keras_internals import (
    is_called_by_fit,
    restore_weights_on_error,
)
from keras_glow.backend.process import keep_freed_memory, return_freed_memory
from keras_glow.checks import (
    check_batch,
    check_boolean,
    check_choice,
    check_fraction,
    check_integer,
    refuse,
)
from keras_glow.data import open_images, open_validation_data
from keras_glow.flow.image_flow import ImageFlow
from keras_glow.flow.initialization import (
    INITIALIZATION_IMAGES,
    check_inverses,
    initialize,
    is_initialized,
)
from keras_glow.flow.noise import IndexedNoise
from keras_glow.flow.pixels import dequantize, nan_where_outside
from keras_glow.flow.prediction import with_labels
from keras_glow.layers.chain import share_traces
from keras_glow.losses import (
    StandardNormalNLL,
    batch_mean,
    negative_mean,
    standard_normal_log_prob,
)
from keras_glow.training.divergence import (
    NanIfEmptyMean,
    StopIfDiverged,
    add_skipped_to_logs,
)
from keras_glow.training.ema import averaged_weights
from keras_glow.training.optimizer import batches_seen, guarded

ANY_NUMBER = 2**31 - 1  # of images, where none is there to fill a batch up


class TrainableFlow(ImageFlow):
    """Fits a flow to images by maximum likelihood.

    A subclass builds the flow, sets the attributes, and then calls
    `_build_state`.

    Attributes:
        seed: int, for the order of the images and for the noise.
        network_dtype: dtype in which coupling networks are trained.
        memory: see `keras_glow.layers.chain.Chain`.
        bijections: the layers in the order of encoding.
        classifier_weight: float, weight of the class's cross entropy in the
            loss.
    """

    def _build_state(self):
        # It draws dequantisation noise. Its state is a counter that files hold.
        self.train_noise = keras.random.SeedGenerator(
            self.seed, name="train_noise"
        )
        # In evaluation: how many images count, and the number of the next.
        self.test_count = keras.random.SeedGenerator(0, name="test_count")
        self._begin_evaluation()
        self._counted = None  # of the batch that `call` was given
        self.test_noise = IndexedNoise(self.image_shape, self.seed)
        self.bits_per_dim_tracker = NanIfEmptyMean(name="bits_per_dim")
        self.classifier = None
        if self.classifier_weight:
            self.classifier = keras.layers.Dense(
                self.num_classes, kernel_initializer="zeros", dtype=self.dtype
            )
            self.classifier.build((None, self.latent_shapes[-1][-1]))
            self.classifier_loss_tracker = NanIfEmptyMean(
                name="classifier_loss"
            )
            self.classifier_accuracy_tracker = NanIfEmptyMean(
                name="classifier_accuracy"
            )

    def compile(
        self, optimizer="adam", loss=None, jit_compile="auto", **kwargs
    ):
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: a Keras optimiser or its name. With networks in float16
                it gets a `keras.optimizers.LossScaleOptimizer` around it.
            loss: None, for `keras_glow.losses.StandardNormalNLL()`. A loss
                of Keras's own would compare latents with themselves.
            jit_compile: bool, or `"auto"`, by which Keras does without XLA
                on Torch and, on TensorFlow, on a CPU or several devices.
            **kwargs: other arguments of `keras.Model.compile`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        _check_loss(loss)
        check_choice("jit_compile", jit_compile, (True, False, "auto"))
        super().compile(
            optimizer=guarded(optimizer, self.network_dtype),
            loss=StandardNormalNLL() if loss is None else loss,
            jit_compile=jit_compile,
            **kwargs,
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

    def call(self, inputs, training=None):
        """Dequantises images at random and encodes them: `(batch, D)`.

        Adds the loss `-mean(log_det)`. With `num_classes` the inputs are
        `(images, labels)`.
        """
        images, labels = (inputs, None) if self.num_classes is None else inputs
        check_batch(images, labels, self.image_shape, self.num_classes)
        counted = None
        if training:
            noise = keras.random.uniform(
                ops.shape(images), dtype=self.dtype, seed=self.train_noise
            )
            noise = shift_noise_by_replica(noise)
        else:
            numbers, counted = self._image_numbers(images)
            noise = self.test_noise(numbers, self.dtype)
        x = dequantize(images, noise, self.bits)
        x = nan_where_outside(x, images, 0, 255)
        if labels is not None:
            x = nan_where_outside(x, labels, 0, self.num_classes - 1)
        log_det_loss = self.encoder.get_layer("log_det_loss")
        log_det_loss.counted = self._counted = counted
        try:
            return self.encoder(with_labels(x, labels), training=training)
        finally:
            log_det_loss.counted = None

    def _begin_evaluation(self, images=None):
        """Numbers images from 0 on, and counts the first `images`, or all."""
        state = self.test_count.state
        start = [ANY_NUMBER if images is None else images, 0]
        state.assign(ops.convert_to_tensor(start, state.dtype))

    def _image_numbers(self, images):
        """Returns the numbers of the images, counted since evaluation began.

        And whether each counts, or only fills up the last batch.
        """
        state = self.test_count.state
        count = ops.shape(images)[0]
        total, first = ops.unstack(ops.convert_to_tensor(state), 2)
        one = ops.convert_to_tensor([0, 1], state.dtype)
        replica, replicas = replica_of_strategy()  # each has its own part
        first = ops.cast(first, "int32") + replica * count
        numbers = first + ops.arange(count, dtype="int32")
        # The state is assigned last: on Torch, a tensor that was read from it
        # changes with it.
        counted = numbers < ops.cast(total, "int32")
        state.assign(state + one * ops.cast(count * replicas, state.dtype))
        return numbers, counted

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        # There is nothing to predict but the latents themselves, so y is not
        # used. Keras' own sum cannot add float64 to its losses in float32.
        counted, self._counted = self._counted, None
        log_prob = standard_normal_log_prob(y_pred)
        losses = negative_mean(log_prob, counted), *self.losses
        nll = sum(ops.sum(ops.cast(loss, self.dtype)) for loss in losses)
        # The density in a bin times its volume is the probability of a pixel.
        nll = nll + self.dimensions * self.bits * math.log(2)
        loss = nll
        means = {
            self.bits_per_dim_tracker: nll / (self.dimensions * math.log(2))
        }
        if self.classifier is not None:
            cross_entropy, accuracy = self._classify(y_pred, x[1], counted)
            loss += self.classifier_weight * self.dimensions * cross_entropy
            means[self.classifier_loss_tracker] = cross_entropy
            means[self.classifier_accuracy_tracker] = accuracy
        if counted is None:
            count = ops.cast(ops.shape(y_pred)[0], self.dtype)
        else:
            count = ops.sum(ops.cast(counted, self.dtype))
        taken = True
        if training:
            taken = ops.isfinite(loss)  # the optimiser leaves out the others
            count = ops.where(taken, count, 0.0)
        for tracker, value in means.items():
            value = ops.where(taken, value, 0.0)
            tracker.update_state(value, sample_weight=count)
        # Each of n replicas of `tf.distribute` adds its part.
        return loss / count_replicas()

    def _classify(self, z, labels, counted):
        """Returns the mean cross entropy in nats, and the accuracy."""
        top = self.latent_shapes[-1]
        z = ops.reshape(z[:, -math.prod(top) :], (-1, *top))
        # h is the latent before the prior of its class standardised it: a guess
        # must not know the class already.
        h = self.bijections[-1].inverse([z, labels])
        logits = self.classifier(ops.mean(h, axis=(1, 2)))
        cross_entropy = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        right = ops.equal(
            ops.cast(ops.argmax(logits, axis=-1), "int32"),
            ops.cast(labels, "int32"),
        )
        return [
            batch_mean(ops.cast(values, self.dtype), counted)
            for values in (cross_entropy, right)
        ]

    def get_metrics_result(self):
        # Keras' own mean of the loss includes steps that were left out, and
        # images that fill up a batch.
        logs = super().get_metrics_result()
        loss = logs["bits_per_dim"] * (self.dimensions * math.log(2))
        if self.classifier is not None:
            weight = self.classifier_weight * self.dimensions
            loss = loss + weight * logs["classifier_loss"]
        return {**logs, "loss": loss}

    def train_step(self, *args):
        batch = self._labels_to_inputs(args[-1])
        return add_skipped_to_logs(self, super().train_step(*args[:-1], batch))

    def test_step(self, *args):
        return super().test_step(*args[:-1], self._labels_to_inputs(args[-1]))

    def _labels_to_inputs(self, batch):
        # A conditional model takes labels as inputs, an unconditional one none.
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if sample_weight is not None:
            raise ValueError("Sample weights are expected to be None.")
        check_batch(x, y, self.image_shape, self.num_classes)
        return (x if self.num_classes is None else (x, y)), None, None

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        **kwargs,
    ):
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
            x: images, or a dataset of images or of (images, labels).
            y: labels, beside an array of images.
            batch_size: int >= 1, or None for 32; a dataset has its own.
            epochs: int >= 1, the number of the last epoch.
            verbose: as in `keras.Model.fit`.
            callbacks: list of keras.callbacks.Callback.
            validation_split: float in [0, 1), part of an array, taken from its
                end, to validate on if there is no `validation_data`.
            validation_data: images, `(images, labels)`, `(images, None)` or a
                dataset.
            shuffle: bool, whether an array is shuffled anew each epoch.
            **kwargs: other arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss` in nats per image and of
            `bits_per_dim`, of both with the prefix `val_` for validation data,
            and of `skipped_steps`, counted since the model was compiled.

        Raises:
            ValueError: if the images are not integers 0..255 of the model's
                shape, or another argument is not as described, naming it; with
                `memory="reversible"`, if the inverse of a step is not accurate
                enough, naming it. A compiled program cannot raise: bad
                values in later batches of a dataset make the loss NaN.
            TrainingDiverged: after ten steps left out in a row.
        """
        if getattr(self, "optimizer", None) is None:
            raise ValueError("`compile()` is expected to be called before.")
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        epochs = check_integer("epochs", epochs, 1)
        shuffle = check_boolean("shuffle", shuffle)
        source = open_images(x, y, self.image_shape, self.num_classes)
        # Validation data is checked before the first epoch, not after it.
        validation = None
        if validation_data is not None:
            validation = open_validation_data(
                validation_data, self.image_shape, self.num_classes
            )
            validation.peek()
        elif check_fraction("validation_split", validation_split):
            source, validation = source.split(validation_split)
        if validation is not None:
            validation_data, self._validated = self._to_evaluate(
                validation, kwargs.get("validation_batch_size") or batch_size
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
                        StopIfDiverged(source),
                        *batches.callbacks,
                        *keras.tree.flatten(callbacks or []),
                    ],
                    validation_data=validation_data,
                    shuffle=batches.shuffle,
                    **kwargs,
                )
        finally:
            if keeps_memory:
                return_freed_memory()

    def _build_optimizer(self):
        # Building the slots here takes a third of the time that it would take
        # inside the traced step. A loss scale that was built twice would have
        # its variables twice, and begin anew.
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _set_up(self, source):
        """Sets ActNorm once, and checks the inverses if they are needed."""
        if self.memory != "reversible" and is_initialized(self.encoder):
            source.peek()
            return
        images = source.first(INITIALIZATION_IMAGES, self.seed)
        images = gather_from_processes(images)
        inputs = self.dequantize(images, seed=self.seed)
        # The labels do not affect ActNorm: only the priors use them.
        labels = np.zeros(len(images), "int32") if self.num_classes else None
        inputs = with_labels(inputs, labels)
        initialize(self.encoder, inputs)
        check_inverses(self.encoder, inputs)

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """Returns loss and bits/dim on data, as `keras.Model.evaluate` does.

        The noise of image i is the same at every call and for every batch size.
        While `fit` runs with `use_ema=True`, the averaged weights are
        evaluated.

        Args:
            x: images, or a dataset of images or of (images, labels).
            y: labels, beside an array of images.
            batch_size: int >= 1, or None for 32; a dataset has its own.
            *args: other arguments of `keras.Model.evaluate`.
            **kwargs: other arguments of `keras.Model.evaluate`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        if is_called_by_fit(kwargs):  # which has checked x
            count, context = self._validated, averaged_weights
        else:
            source = open_images(x, y, self.image_shape, self.num_classes)
            source.peek()
            (x, y), count = self._to_evaluate(source, batch_size)
            context = restore_weights_on_error
        self._begin_evaluation(count)
        try:
            with context(self):
                return super().evaluate(x, y, batch_size, *args, **kwargs)
        finally:
            self._begin_evaluation()

    def _equal_batches(self):
        """Returns whether a batch of another size would be compiled anew."""
        return self.jit_compile and count_processes() == 1

    def _to_evaluate(self, source, batch_size):
        """Returns x and y for Keras, and how many images count, or None."""
        equal = self._equal_batches()
        data = source.for_evaluation(batch_size, equal)
        return (data, None), source.count if equal else None


def _check_loss(loss):
    """Refuses losses that compare with targets: latents have none."""
    if not (loss is None or isinstance(loss, StandardNormalNLL)):
        refuse("loss", "None or a keras_glow.losses.StandardNormalNLL", loss)
