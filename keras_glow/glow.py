"""`Glow`: the architecture of the paper as a model, and its files."""

import math
import os
import pathlib
import typing
from collections.abc import Sequence

import keras
import numpy.typing as npt
from keras import ops

from keras_glow.analysis import diagnosis
from keras_glow.checks import refuse
from keras_glow.files.atomic import atomic_file
from keras_glow.files.export import export
from keras_glow.files.model_card import model_card
from keras_glow.files.presets import MODEL, preset_path, preset_sha256
from keras_glow.files.strict_reader import (
    assign_weights,
    load_weights,
    read_model,
    refusing,
)
from keras_glow.flow.architecture import assemble, build_flow
from keras_glow.flow.arguments import (
    ARGUMENTS,
    OLDER,
    check_arguments,
    check_name,
)
from keras_glow.flow.levels import latent_shapes
from keras_glow.flow.pixels import dtype_for
from keras_glow.flow.transfer import transfer
from keras_glow.flow.weights_layout import warn_if_refused
from keras_glow.layers.chain import networks_with_dropout, share_traces
from keras_glow.layers.programs import shared_programs
from keras_glow.layers.sequence import named_layers
from keras_glow.training.trainable_flow import TrainableFlow


@keras.saving.register_keras_serializable(package="keras_glow")
class Glow(TrainableFlow):
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

    Everywhere, `images` are integers 0..255, or what `bits` says, `(batch,
    height, width, channels)`; labels are integers `(batch,)`, needed if and
    only if `num_classes` is set; a context is an array of finite numbers
    `(batch, *context_shape)`, needed if and only if `context_shape` is set; D
    is height x width x channels.

    `fit` and `evaluate` take arrays, a `tf.data.Dataset`, a
    `keras.utils.PyDataset` or a generator, with or without labels and context,
    and no other targets. The loss is the mean negative log-likelihood of an
    image in nats, under uniform dequantisation; `bits_per_dim` stands beside
    it.

    Args:
        image_shape: (height, width, channels); height and width multiples of
            `2**levels`, channels 1 or more.
        levels: int 1..30, L in the paper.
        depth: int 1..1024, steps of flow in each level, K in the paper; or a
            sequence of as many as there are levels, that of the finest first.
        width: int >= 1, hidden channels of a coupling network.
        permutation: `"invertible_conv"`, `"shuffle"` or `"reverse"`.
        coupling: `"affine"` or `"additive"`.
        bits: int 1..16, bits per subpixel. With fewer than 8 the images are
            quantised to `2**bits` grey levels. With more than 8 they are
            integers 0..2**bits - 1, uint16; with more than 12, float32 would
            not bring all of them back, and the flow computes in float64. None
            is for images of finite floats, in units of their own: nothing is
            quantised, densities are in nats of these units, and `bits_per_dim`
            is `nats_per_dim`. The first layer, `Standardize`, holds their mean
            and deviation, measured before the first step.
        num_classes: int, or None. With it the priors are learned for each
            class.
        context_shape: `(n,)` for a vector or (height, width, channels) for an
            image of any size that is known of each image, or None. The flow is
            conditioned on it by a small network for each level, see
            `keras_glow.layers.context_network.ContextNetwork`.
        seed: int 0..2**31 - 1, for the initial weights, the order of the
            images and the noise in training.
        network_dtype: `"bfloat16"` or `"float16"` to compute the coupling
            networks in while training; None follows the dtype policy. The rest
            of the flow, and everything outside training, is float32.
        memory: how the backward pass obtains the activations:
            `"store"` keeps them all; `"remat"` keeps the input of each step of
            flow and computes the rest once more; `"reversible"` keeps nothing
            of the steps and goes back through their inverses. Each further
            step then costs only its weights, its optimiser state and its share
            of the compiled program. Both take longer than `"store"`: 1.2 and
            1.4 times as long at depth 64. Files do not depend on it.
        scale: scale function of affine coupling, see
            `keras_glow.layers.AffineCoupling`.
        border: bool, whether the 3x3 convolutions see where the image ends, by
            an extra channel that is 1 outside of it, as in openai/glow; see
            `keras_glow.layers.convolution.convolve`.
        class_priors: `"all"` if the priors of all levels depend on the class,
            `"top"` if only that of the coarsest level does, as in openai/glow.
        classifier_weight: float >= 0. If it is over 0, a linear layer guesses
            the class from the mean of the top latents over the image, and its
            cross entropy in nats, times `classifier_weight * D`, is added to
            the loss: `weight_y` of openai/glow, 0.01 there. `classifier_loss`
            and `classifier_accuracy` stand beside it.
        network: `"paper"`, or `"residual"` for deeper and narrower coupling
            networks, which reach a better likelihood in the same time; see
            `keras_glow.layers.residual_network.ResidualNetwork`.
        blocks: int 1..64, residual blocks of a `"residual"` network.
        dropout: 0 <= float < 1, share of the hidden values of a `"residual"`
            network that training sets to 0.
        frozen: names of layers that are not trained: of `bijections`, such as
            `"step_1_2"`, or inside them, such as `"step_1_2/coupling"`. It is
            the `trainable` of Keras, which can be set later too, and files
            keep it.
        whiten: bool, whether the first 1x1 convolution of each level starts
            with what takes the correlations out of its inputs, from the images
            that initialise ActNorm, and then rotates; training then starts much
            further on. The paper's start as rotations alone.
        class_couplings: bool, whether the coupling networks see the class too,
            as they see a context.
        name: of the keras.Model, or None for one of its own.
        dtype: dtype or policy of the keras.Model; None for the global one.

    Attributes:
        encoder: functional keras.Model, continuous image in [-0.5, 0.5),
            `(batch, height, width, channels)`, to z, `(batch, D)`: the latents
            of all levels, standardised, finest level first. It adds the loss
            `-mean(log_det)`. With `num_classes` and `context_shape` its inputs
            are `[image, labels, context]`, without what is None.
        decoder: functional keras.Model, z to continuous image, through the
            same layers. Its inputs are `[z, labels, context]` likewise.
        bijections: the layers in the order of encoding.
        latent_shapes: shape of each level's latent, in the order of z.

    Raises:
        ValueError: naming the argument that is not as described, or those that
            ask for more than 2**31 parameters or 2048 steps of flow.

    Reference:
        Kingma & Dhariwal, 2018, Glow: Generative Flow with Invertible 1x1
        Convolutions, https://arxiv.org/abs/1807.03039
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        levels: int = 3,
        depth: int | Sequence[int] = 10,
        width: int = 512,
        permutation: str = "invertible_conv",
        coupling: str = "affine",
        bits: int | None = 8,
        num_classes: int | None = None,
        seed: int = 0,
        network_dtype: str | None = None,
        memory: str = "store",
        scale: str = "bounded",
        border: bool = False,
        class_priors: str = "all",
        classifier_weight: float = 0.0,
        network: str = "paper",
        blocks: int = 2,
        dropout: float = 0.0,
        frozen: Sequence[str] = (),
        context_shape: Sequence[int] | None = None,
        whiten: bool = False,
        class_couplings: bool = False,
        *,
        name: str | None = None,
        dtype: typing.Any = None,
    ) -> None:
        arguments = check_arguments(
            {
                name: value
                for name, value in locals().items()
                if name in ARGUMENTS
            }
        )
        if name is not None:
            check_name(name)
        super().__init__(dtype=dtype_for(arguments["bits"], dtype), name=name)
        # Keras wraps each layer's `quantize` for its int8 quantisation. Ours
        # has another meaning, so the wrapper is removed.
        del self.quantize
        frozen = arguments.pop("frozen")
        for name, value in arguments.items():
            setattr(self, name, value)
        policy = keras.dtype_policies.get(network_dtype or dtype)
        self.network_dtype = policy.compute_dtype
        self.dimensions = math.prod(self.image_shape)
        self.latent_shapes = latent_shapes(self.image_shape, self.levels)
        self._build_flow()
        self._freeze(frozen)
        self._build_state()
        self.built = True

    def _build_flow(self):
        flow = build_flow(self)
        # Keras names the weights in a file by the first attribute, in
        # alphabetical order, that leads to their layer: `bijections` has to
        # sort before `decoder` and `encoder` (test_loading.py holds it).
        self.bijections = [part for level in flow for part in level.parts()]
        self.context_networks = [
            level.context for level in flow if level.context
        ]
        self.encoder, self.scorer, self.decoder = assemble(flow, self)
        share_traces(self.encoder, not self.encoder.jit_compile)

    @property
    def frozen(self) -> list[str]:
        """Names of the layers that are not trained, see `Glow`."""
        layers = named_layers(self.bijections)
        return [name for name, layer in layers if not layer.trainable]

    def _freeze(self, names):
        layers = dict(named_layers(self.bijections))
        for name in names:
            if name not in layers:
                refuse("frozen", "names of layers, such as step_1_1", name)
            layers[name].trainable = False

    # These methods diagnose a model and save it.

    def diagnose(
        self,
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
        context: npt.ArrayLike | None = None,
    ) -> diagnosis.Diagnosis:
        """Searches layer by layer for the loss of images: the flow's doctor.

        It changes nothing in the model, and no random state.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`, such as
                validation images.
            labels: int array `(batch,)`.
            batch_size: int, images that go through at once.
            context: array `(batch, *context_shape)`.

        Returns:
            A `keras_glow.analysis.diagnosis.Diagnosis`; print it.
        """
        with shared_programs(self):
            return diagnosis.diagnose(self, images, labels, batch_size, context)

    def save(
        self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs
    ) -> None:
        """Saves a `.keras` file whole or not at all, as `keras.Model.save`.

        Keras writes in place, so a full disk, or a kill in the middle, would
        destroy the previous file. A model with weights that `load_model` would
        refuse is saved with a warning.

        Args:
            filepath: where to; missing folders are made. Keras itself writes to
                addresses (`gs://...`).
            overwrite: bool, whether to replace a file without asking.
            **kwargs: other arguments of `keras.Model.save`.

        Raises:
            ValueError: if it ends in `.h5` or `.hdf5`, which Keras writes and
                cannot load.
            OSError: naming the file and the reason; the previous file is left.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            refuse("filepath", "a path that ends in .keras", filepath)
        warn_if_refused(self, filepath)
        self._save(super().save, filepath, overwrite, ".keras", kwargs)

    def save_weights(
        self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs
    ) -> None:
        """Saves a `.weights.h5` file whole or not at all, as `save` does.

        Args:
            filepath: where to, see `save`.
            overwrite: see `save`.
            **kwargs: other arguments of `keras.Model.save_weights`.

        Raises:
            OSError: naming the file and the reason; the previous file is left.
        """
        if kwargs.get("max_shard_size") is not None:
            expected = "None: the weights are one file"
            refuse("max_shard_size", expected, kwargs["max_shard_size"])
        save = super().save_weights
        self._save(save, filepath, overwrite, ".weights.h5", kwargs)

    def _save(self, save, path, overwrite, suffix, kwargs):
        if isinstance(path, (bytes, os.PathLike)):
            path = os.fsdecode(path)
        whole = str(path).endswith(suffix) and kwargs.get("zipped") is not False
        if overwrite and whole and "://" not in str(path):
            with atomic_file(path) as partial:
                save(partial, **kwargs)
        else:
            # Keras asks the user, refuses the name, or writes to the address
            # or into a folder.
            save(path, overwrite, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
    ) -> None:
        """Writes encoder and decoder as files that run without this package.

        `signature.json` beside them describes inputs and outputs, see
        `keras_glow.files.export.standalone`; `docs/export.md` says how each
        format is loaded. It needs the TensorFlow backend, and `"onnx"` the
        packages tf2onnx and onnx.

        Args:
            filepath: path of the folder to make.
            format: `"tf_saved_model"`, `"litert"` or `"onnx"`.
            verbose: bool, whether Keras reports on each file; None for no.

        Raises:
            ValueError: naming the argument that is not as described.
            ImportError: naming the packages that are missing.
            OSError: naming the folder and the reason, for example that it
                exists already; nothing is written.
        """
        export(self, filepath, format, verbose)

    def get_config(self) -> dict[str, typing.Any]:
        config = {"name": self.name, "dtype": self.dtype}
        for name in ARGUMENTS:
            value = getattr(self, name)
            config[name] = list(value) if isinstance(value, tuple) else value
        return config

    @classmethod
    def from_config(cls, config: dict[str, typing.Any]) -> typing.Self:
        return cls(**{**OLDER, **config})

    def with_arguments(self, **arguments) -> typing.Self:
        """Returns a copy with the same weights and other arguments.

        What is trained on one size of images goes on with another: the weights
        of a flow see neighbourhoods, whatever the size. The top prior, which
        has a mean and a deviation for each position, gets their averages over
        the positions; and each class those of a model without classes. What
        sees a new context is new, and ignores it at first. Levels that are
        added are new, with the top prior, and set by the next `fit`.

        Args:
            **arguments: those of `Glow` that change: `image_shape`, but for
                its channels, more `levels` (and as many depths), `num_classes`
                and `context_shape` of a model that has none, or such as
                `network_dtype`, `memory`, `dropout`.

        Raises:
            ValueError: naming the weight that would be of another shape, or
                the argument that is not as described.
        """
        copy = type(self).from_config({**self.get_config(), **arguments})
        transfer(self, copy, arguments)
        return copy

    @classmethod
    def from_preset(cls, name: str | os.PathLike) -> "Glow":
        """Loads a trained model, not compiled.

        Args:
            name: one of `keras_glow.presets.PRESETS`, which come with the
                package, or the path of a `.keras` file, or of a folder that
                `save_to_preset` or `keras-glow train` has written.

        Raises:
            ValueError: if there is no such preset and no such file.
            ModelFileError: naming the file and what is wrong with it, for
                example that it is not the one that was shipped.
        """
        return load_model(preset_path(name), sha256=preset_sha256(name))

    def save_to_preset(
        self, preset_dir: str | os.PathLike, description: str = ""
    ) -> None:
        """Saves the model, without an optimiser, and a card for `from_preset`.

        The card, `README.md`, says what can be known of the model, and asks
        what cannot. One that is there already is left as it is.

        Args:
            preset_dir: folder to write to; made if it is missing.
            description: str, a sentence or two for the card.

        Raises:
            OSError: naming the file and the reason.
        """
        folder = pathlib.Path(os.fsdecode(preset_dir))
        self.with_arguments().save(folder / MODEL)
        card = folder / "README.md"
        if not card.exists():
            name = folder.resolve().name
            with atomic_file(card) as partial:
                partial.write_text(model_card(self, name, description))

    def load_weights(
        self,
        filepath: str | os.PathLike,
        skip_mismatch: bool = False,
        *,
        sha256: str | None = None,
    ) -> None:
        """Loads weights, all of them or none.

        The file is checked as by `keras_glow.load_model`. A compiled model
        takes the state of the optimiser too, if the file has one of the same
        kind. HDF5 has no checksums, so only `sha256` can tell whether a
        `.weights.h5` file is as it was written.

        Args:
            filepath: a `.weights.h5` or `.keras` file of a model like this one.
            skip_mismatch: False. No weights are left out.
            sha256: hexadecimal digest that the file must have, or None.

        Raises:
            ModelFileError: naming the file and what is wrong with it; the
                model is as it was.
            FileNotFoundError: if there is none.
            ValueError: if `skip_mismatch` is not False.
        """
        if skip_mismatch is not False:
            expected = "False: all weights are loaded, or none"
            refuse("skip_mismatch", expected, skip_mismatch)
        if self.compiled:
            self._build_optimizer()
        load_weights(self, filepath, sha256)

    def save_own_variables(self, store):
        # Keras leaves the state of seed generators out of its files. Without
        # it, resumed training would see the same noise again.
        store["train_noise"] = ops.convert_to_numpy(
            self.train_noise.state
        ).astype("int64")

    def load_own_variables(self, store):
        state = self.train_noise.state
        state.assign(
            ops.convert_to_tensor(store["train_noise"][:], state.dtype)
        )
        # Every step of training draws noise once, and masks of dropout.
        for network in networks_with_dropout(self):
            network.skip_masks(store["train_noise"][1])


def load_model(path: str | os.PathLike, sha256: str | None = None) -> Glow:
    """Loads a `Glow` from a `.keras` file, and refuses everything else.

    Unlike `keras.saving.load_model` it never builds another class, runs no code
    that the file names, and leaves the optimiser out: the model is not
    compiled. A file is also refused if it was compiled with classes that belong
    to neither Keras nor this package, though none of them would be built.

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
    with refusing(path):
        model = Glow.from_config(config)
    assign_weights(model, values)
    return model
