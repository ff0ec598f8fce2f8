"""The Glow model: trains on images, scores, encodes, decodes and draws them."""

import math

import keras
import numpy as np
from keras import ops

from keras_glow.analysis import diagnosis
from keras_glow.backend.devices import (
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
    check_boolean,
    check_choice,
    check_fraction,
    check_integer,
    refuse,
)
from keras_glow.data import check_batch, open_images, open_validation_data
from keras_glow.files.atomic import atomic_file
from keras_glow.files.export import export
from keras_glow.files.presets import PRESETS, preset_path
from keras_glow.files.strict_reader import (
    assign_weights,
    load_weights,
    read_model,
)
from keras_glow.flow.architecture import assemble, build_flow
from keras_glow.flow.arguments import (
    ARGUMENTS,
    OLDER,
    check_arguments,
    check_name,
)
from keras_glow.flow.image_flow import ImageFlow
from keras_glow.flow.initialization import (
    INITIALIZATION_IMAGES,
    check_inverses,
    initialize,
    is_initialized,
)
from keras_glow.flow.levels import latent_shapes
from keras_glow.flow.noise import IndexedNoise
from keras_glow.flow.pixels import dequantize, nan_where_outside
from keras_glow.flow.prediction import resolve_jit_compile, with_labels
from keras_glow.layers.bijection import flow_dtype
from keras_glow.layers.chain import share_traces
from keras_glow.losses import StandardNormalNLL, batch_mean
from keras_glow.training.divergence import (
    NanIfEmptyMean,
    StopIfDiverged,
    add_skipped_to_logs,
)
from keras_glow.training.ema import averaged_weights
from keras_glow.training.optimizer import batches_seen, guarded


@keras.saving.register_keras_serializable(package="keras_glow")
class Glow(ImageFlow):
    """A multi-scale normalizing flow over images, with an exact likelihood.

    An image goes through `levels` levels, each of them a squeeze, `depth` steps
    of flow and a split that lets half of the channels out. All latents leave
    standardised: an image is D numbers that are standard normal if the model
    fits, and any D standard normal numbers are an image.

    ```python
    model = keras_glow.Glow((32, 32, 3), levels=3, depth=4, width=128)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(images, validation_data=(test_images, None), epochs=20)
    model.save("faces.keras")
    faces = model.sample(16, temperature=0.7, seed=0)
    ```

    Everywhere, `images` are integers 0..255, `(batch, height, width,
    channels)`; labels are integers `(batch,)`, needed if and only if
    `num_classes` is set; D is height x width x channels.

    `fit` and `evaluate` take arrays, a `tf.data.Dataset`, a
    `keras.utils.PyDataset` or a generator, with or without labels, and no other
    targets. The loss is the mean negative log-likelihood of an image in nats,
    under uniform dequantisation; `bits_per_dim` stands beside it.

    Args:
        image_shape: (height, width, channels); height and width multiples of
            `2**levels`, channels 1 or more.
        levels: int 1..30, L in the paper.
        depth: int 1..1024, steps of flow in each level, K in the paper.
        width: int >= 1, hidden channels of a coupling network.
        permutation: `"invertible_conv"`, `"shuffle"` or `"reverse"`.
        coupling: `"affine"` or `"additive"`.
        bits: int 1..8, bits per subpixel; with fewer than 8 the images are
            quantised to `2**bits` grey levels.
        num_classes: int, or None. With it the priors are learned for each
            class.
        seed: int 0..2**31 - 1, of the initial weights, of the order of the
            images and of the noise in training.
        network_dtype: `"bfloat16"` or `"float16"` to compute the coupling
            networks in while training; None follows the dtype policy. The rest
            of the flow, and everything outside training, is float32.
        memory: what the backward pass of training has the activations from:
            `"store"` keeps them all; `"remat"` keeps the input of each step of
            flow and computes the rest once more; `"reversible"` keeps nothing
            of the steps and goes back through their inverses. What a step
            more costs is then its weights, the optimiser's moments and its
            part of the program. Both take longer: 1.2 and 1.4 times at depth
            64. Files do not depend on it.
        scale: scale function of affine coupling, see
            `keras_glow.layers.AffineCoupling`.
        border: bool, whether the 3x3 convolutions see where the image ends, by
            a channel more that is 1 outside of it, as in openai/glow; see
            `keras_glow.layers.convolution.convolve`.
        class_priors: `"all"` for those of all levels, `"top"` for that of the
            coarsest alone, as in openai/glow.
        classifier_weight: float >= 0. Over 0, a linear layer guesses the class
            from the mean of the top latents over the image, and its cross
            entropy in nats, times `classifier_weight * D`, is added to the
            loss: `weight_y` of openai/glow, 0.01 there. `classifier_loss` and
            `classifier_accuracy` stand beside it.
        **kwargs: `name` and `dtype` of a keras.Model.

    Attributes:
        encoder: functional keras.Model, continuous image in [-0.5, 0.5),
            `(batch, height, width, channels)`, to z, `(batch, D)`: the latents
            of all levels, standardised, finest level first. It adds the loss
            `-mean(log_det)`. With `num_classes` its inputs are
            `[image, labels]`.
        decoder: functional keras.Model, z to continuous image, through the
            same layers. With `num_classes` its inputs are `[z, labels]`.
        bijections: the layers in the order of encoding.
        latent_shapes: shape of each level's latent, in the order of z.

    Raises:
        ValueError: naming the argument that is not as described, or those that
            ask for more than 2**31 parameters.

    Reference:
        Kingma & Dhariwal, 2018, Glow: Generative Flow with Invertible 1x1
        Convolutions, https://arxiv.org/abs/1807.03039
    """

    def __init__(
        self,
        image_shape,
        levels=3,
        depth=10,
        width=512,
        permutation="invertible_conv",
        coupling="affine",
        bits=8,
        num_classes=None,
        seed=0,
        network_dtype=None,
        memory="store",
        scale="bounded",
        border=False,
        class_priors="all",
        classifier_weight=0.0,
        **kwargs,
    ):
        arguments = check_arguments(
            {
                name: value
                for name, value in locals().items()
                if name in ARGUMENTS
            }
        )
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None))
        if kwargs.get("name") is not None:
            check_name(kwargs["name"])
        super().__init__(dtype=flow_dtype(policy), **kwargs)
        # Keras puts a wrapper of its int8 quantisation over each layer's
        # `quantize`; ours has another meaning, and wants the method itself.
        del self.quantize
        for name, value in arguments.items():
            setattr(self, name, value)
        policy = keras.dtype_policies.get(network_dtype or policy)
        self.network_dtype = policy.compute_dtype
        self.dimensions = math.prod(self.image_shape)
        self.latent_shapes = latent_shapes(self.image_shape, self.levels)
        self._build_flow()
        self._build_state()
        self.built = True

    def _build_flow(self):
        flow = build_flow(
            self.image_shape,
            self.levels,
            self.depth,
            self.num_classes,
            self.class_priors,
            self.seed,
            self.dtype,
            self.memory,
            self.border,
            permutation=self.permutation,
            coupling=self.coupling,
            width=self.width,
            scale=self.scale,
            network_dtype=self.network_dtype,
        )
        # Keras names the weights in a file by the first attribute, in
        # alphabetical order, that leads to their layer: `bijections` has to
        # sort before `decoder` and `encoder` (test_loading.py holds it).
        self.bijections = [
            layer
            for level in flow
            for layer in (level.squeeze, *level.steps.bijections, level.prior)
        ]
        self.encoder, self.scorer, self.decoder = assemble(
            flow, self.image_shape, self.num_classes, self.dtype
        )
        for model in (self.encoder, self.scorer, self.decoder):
            model.jit_compile = resolve_jit_compile("auto", model)
        share_traces(self.encoder, not self.encoder.jit_compile)

    def _build_state(self):
        # Dequantisation noise: its state is a counter that the file carries.
        self.train_noise = keras.random.SeedGenerator(
            self.seed, name="train_noise"
        )
        # In tests the counter is the number of the image.
        self.test_count = keras.random.SeedGenerator(
            self.seed, name="test_count"
        )
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

    # Training

    def compile(
        self, optimizer="adam", loss=None, jit_compile="auto", **kwargs
    ):
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: a Keras optimiser or its name. With networks in float16
                it gets a `keras.optimizers.LossScaleOptimizer` around it.
            loss: None, for `keras_glow.losses.StandardNormalNLL()`. One of
                Keras's own would compare latents with themselves.
            jit_compile: bool, or `"auto"`, which leaves XLA out where
                TensorFlow runs on a CPU: its convolutions are slower there.
            **kwargs: other arguments of `keras.Model.compile`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        _check_loss(loss)
        check_choice("jit_compile", jit_compile, (True, False, "auto"))
        jit_compile = resolve_jit_compile(jit_compile, self)
        share_traces(self.encoder, not jit_compile)
        super().compile(
            optimizer=guarded(optimizer, self.network_dtype),
            loss=StandardNormalNLL() if loss is None else loss,
            jit_compile=jit_compile,
            **kwargs,
        )
        # Keras would run the model once more to learn the shape of its output,
        # and would leave the labels out.
        z = keras.KerasTensor((None, self.dimensions), self.dtype)
        self._compile_loss.build(z, z)

    def compile_from_config(self, config):
        # The file may come from another backend: XLA is decided here anew.
        config = {k: v for k, v in config.items() if k != "jit_compile"}
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None):
        """Dequantises images at random and encodes them: `(batch, D)`.

        Adds the loss `-mean(log_det)`. With `num_classes` the inputs are
        `(images, labels)`.
        """
        images, labels = (inputs, None) if self.num_classes is None else inputs
        check_batch(images, labels, self.image_shape, self.num_classes)
        if training:
            noise = keras.random.uniform(
                ops.shape(images), dtype=self.dtype, seed=self.train_noise
            )
            noise = shift_noise_by_replica(noise)
        else:
            noise = self.test_noise(self._image_numbers(images), self.dtype)
        x = dequantize(images, noise, self.bits)
        x = nan_where_outside(x, images, 0, 255)
        if labels is not None:
            x = nan_where_outside(x, labels, 0, self.num_classes - 1)
        return self.encoder(with_labels(x, labels), training=training)

    def _image_numbers(self, images):
        """The numbers of the images of a test, since it began."""
        state = self.test_count.state
        count = ops.shape(images)[0]
        first = ops.convert_to_tensor(state)[1]
        one = ops.convert_to_tensor([0, 1], state.dtype)
        replica, replicas = replica_of_strategy()  # each with its part
        first = ops.cast(first, "int32") + replica * count
        numbers = first + ops.arange(count, dtype="int32")
        # Only now: on Torch, what was read of the state changes with it.
        state.assign(state + one * ops.cast(count * replicas, state.dtype))
        return numbers

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        # Nothing to predict but the latents themselves: y is not looked at.
        # Keras' own sum takes no float64 beside the float32 of its losses.
        # On each of n replicas of `tf.distribute` Keras takes an n-th of it.
        replicas = count_replicas()
        losses = replicas * self._compile_loss(y_pred, y_pred), *self.losses
        nll = sum(ops.sum(ops.cast(loss, self.dtype)) for loss in losses)
        # The density of a bin times its volume is the probability of a pixel.
        nll = nll + self.dimensions * self.bits * math.log(2)
        loss = nll
        means = {
            self.bits_per_dim_tracker: nll / (self.dimensions * math.log(2))
        }
        if self.classifier is not None:
            cross_entropy, accuracy = self._classify(y_pred, x[1])
            loss += self.classifier_weight * self.dimensions * cross_entropy
            means[self.classifier_loss_tracker] = cross_entropy
            means[self.classifier_accuracy_tracker] = accuracy
        count = ops.cast(ops.shape(y_pred)[0], self.dtype)
        taken = True
        if training:
            taken = ops.isfinite(loss)  # or else the optimiser leaves it out
            count = ops.where(taken, count, 0.0)
        for tracker, value in means.items():
            value = ops.where(taken, value, 0.0)
            tracker.update_state(value, sample_weight=count)
        return loss / replicas

    def _classify(self, z, labels):
        """Mean cross entropy in nats, and the share of right guesses."""
        top = self.latent_shapes[-1]
        z = ops.reshape(z[:, -math.prod(top) :], (-1, *top))
        # Before its class standardised it: no guess may know that already.
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
            batch_mean(ops.cast(values, self.dtype))
            for values in (cross_entropy, right)
        ]

    def loss_from_logs(self, logs):
        """The loss in nats per image, of the metrics it is the sum of."""
        loss = logs["bits_per_dim"] * (self.dimensions * math.log(2))
        if self.classifier is not None:
            weight = self.classifier_weight * self.dimensions
            loss = loss + weight * logs["classifier_loss"]
        return loss

    def train_step(self, *args):
        batch = self._labels_to_inputs(args[-1])
        return add_skipped_to_logs(self, super().train_step(*args[:-1], batch))

    def test_step(self, *args):
        return super().test_step(*args[:-1], self._labels_to_inputs(args[-1]))

    def _labels_to_inputs(self, batch):
        # A conditional model takes the labels in, an unconditional one none.
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

        Before the first step of its life ActNorm is set from 256 dequantised
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
            A `keras.callbacks.History` of `loss` in nats per image and
            `bits_per_dim`, and of both with `val_` for validation data, and of
            `skipped_steps`, the count since the model was compiled.

        Raises:
            ValueError: if the images are not integers 0..255 of the model's
                shape, or another argument is not as described, naming it; with
                `memory="reversible"`, if the inverse of a step is not accurate
                enough, naming it. Later batches of a dataset, whose values no
                compiled program can refuse, make the loss nan instead.
            TrainingDiverged: after ten steps left out in a row.
        """
        if getattr(self, "optimizer", None) is None:
            raise ValueError("`compile()` is expected to be called before.")
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        epochs = check_integer("epochs", epochs, 1)
        shuffle = check_boolean("shuffle", shuffle)
        source = open_images(x, y, self.image_shape, self.num_classes)
        # Before the first epoch, not after it.
        validation = None
        if validation_data is not None:
            validation = open_validation_data(
                validation_data, self.image_shape, self.num_classes
            )
            validation.peek()
        elif check_fraction("validation_split", validation_split):
            source, validation = source.split(validation_split)
        if validation is not None:
            validation = validation.for_evaluation(
                kwargs.get("validation_batch_size") or batch_size
            )
        self._set_up(source)
        batches = source.for_training(
            batch_size or 32, self.seed, batches_seen(self.optimizer), shuffle
        )
        # Built outside the traced step, the slots cost a third of its time.
        self.optimizer.build(self.trainable_variables)
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
                    validation_data=validation and (validation, None),
                    shuffle=batches.shuffle,
                    **kwargs,
                )
        finally:
            if keeps_memory:
                return_freed_memory()

    def _set_up(self, source):
        """Sets ActNorm once, and checks the inverses if they are needed."""
        if self.memory != "reversible" and is_initialized(self.encoder):
            source.peek()
            return
        images = source.first(INITIALIZATION_IMAGES, self.seed)
        images = gather_from_processes(images)
        inputs = self.dequantize(images, seed=self.seed)
        # ActNorm sees nothing of the labels: the priors alone do.
        labels = np.zeros(len(images), "int32") if self.num_classes else None
        inputs = with_labels(inputs, labels)
        initialize(self.encoder, inputs)
        check_inverses(self.encoder, inputs)

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """The loss and bits/dim on data, as `keras.Model.evaluate` does.

        The noise of image i is the same at every call and for every batch size.
        While `fit` runs with `use_ema=True`, it is the averaged weights that
        are evaluated.

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
        called_by_fit = is_called_by_fit(kwargs)  # which has checked x
        if not called_by_fit:
            source = open_images(x, y, self.image_shape, self.num_classes)
            source.peek()
            x, y = source.for_evaluation(batch_size), None
        state = self.test_count.state
        state.assign(ops.convert_to_tensor([self.seed, 0], state.dtype))
        if called_by_fit:
            with averaged_weights(self):
                return super().evaluate(x, y, batch_size, *args, **kwargs)
        with restore_weights_on_error(self):
            return super().evaluate(x, y, batch_size, *args, **kwargs)

    # Looking at it, saving it

    def diagnose(self, images, labels=None, batch_size=32):
        """Looks for what loses images, layer by layer: the flow's doctor.

        It changes nothing in the model, and no random state.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`, such as
                validation images.
            labels: int array `(batch,)`.
            batch_size: int, images that go through at once.

        Returns:
            A `keras_glow.analysis.diagnosis.Diagnosis`; print it.
        """
        return diagnosis.diagnose(self, images, labels, batch_size)

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves a `.keras` file whole or not at all, as `keras.Model.save`.

        Keras writes in place: a full disk, or a kill meanwhile, takes the file
        before with it.

        Args:
            filepath: where to; missing folders are made. What Keras takes of
                addresses (`gs://...`) is written as Keras does.
            overwrite: bool, whether to replace a file without asking.
            **kwargs: other arguments of `keras.Model.save`.

        Raises:
            OSError: naming the file and the reason; the one before is left.
        """
        name = str(filepath)
        if not overwrite or not name.endswith(".keras") or "://" in name:
            # Keras asks, says what a file is to be called, or sends it away.
            super().save(filepath, overwrite, **kwargs)
            return
        with atomic_file(filepath) as partial:
            super().save(partial, **kwargs)

    def export(self, filepath, format="tf_saved_model"):
        """Writes encoder and decoder as files that run without this package.

        `signature.json` beside them says what goes in and what comes out, see
        `keras_glow.files.export.standalone`; `docs/export.md` how each is
        loaded. It needs the TensorFlow backend, and `"onnx"` the packages
        tf2onnx and onnx.

        Args:
            filepath: of the folder to make.
            format: `"tf_saved_model"`, `"litert"` or `"onnx"`.

        Raises:
            ValueError: naming the argument that is not as described.
            ImportError: naming the packages that are missing.
            OSError: naming the folder and the reason, such as that there is
                one already; nothing is written.
        """
        export(self, filepath, format)

    def get_config(self):
        arguments = {name: getattr(self, name) for name in ARGUMENTS}
        arguments["image_shape"] = list(self.image_shape)
        return {"name": self.name, "dtype": self.dtype, **arguments}

    @classmethod
    def from_config(cls, config):
        return cls(**{**OLDER, **config})

    @classmethod
    def from_preset(cls, name):
        """Loads a trained model that comes with the package, not compiled.

        Args:
            name: one of `keras_glow.presets.PRESETS`.

        Raises:
            ValueError: if there is no such preset.
            ModelFileError: if its file is not the one that was shipped.
        """
        return load_model(preset_path(name), sha256=PRESETS[name].sha256)

    def load_weights(self, filepath, *, sha256=None):
        """Loads weights, all of them or none.

        The file is checked as by `keras_glow.load_model`. A compiled model
        takes the state of the optimiser too, if the file has one of the same
        kind. HDF5 has no checksums: that a `.weights.h5` file is as it was
        written, only `sha256` can tell.

        Args:
            filepath: a `.weights.h5` or `.keras` file of a model like this one.
            sha256: hexadecimal digest that the file must have, or None.

        Raises:
            ModelFileError: naming the file and what is wrong with it; the
                model is as it was.
            FileNotFoundError: if there is none.
        """
        load_weights(self, filepath, sha256)

    def save_own_variables(self, store):
        # Keras leaves the state of seed generators out of its files. Without
        # it, training that goes on would see the same noise once more.
        store["train_noise"] = ops.convert_to_numpy(
            self.train_noise.state
        ).astype("int64")

    def load_own_variables(self, store):
        state = self.train_noise.state
        state.assign(
            ops.convert_to_tensor(store["train_noise"][:], state.dtype)
        )


def load_model(path, sha256=None):
    """Loads a `Glow` from a `.keras` file, and refuses everything else.

    Unlike `keras.saving.load_model` it never builds another class, runs no code
    that the file names, and leaves the optimiser out: the model is not
    compiled. A file compiled with classes that are neither Keras' own nor of
    this package is refused too, though none of them would be built.

    Args:
        path: a file that `Glow.save` wrote.
        sha256: hexadecimal digest that the file must have, or None.

    Returns:
        A `Glow` with the file's weights.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
        FileNotFoundError: if there is none.
    """
    config, values = read_model(path, sha256)
    model = Glow.from_config(config)
    assign_weights(model, values)
    return model


def _check_loss(loss):
    """Refuses losses that compare with targets: latents have none."""
    if not (loss is None or isinstance(loss, StandardNormalNLL)):
        refuse("loss", "None or a keras_glow.losses.StandardNormalNLL", loss)
