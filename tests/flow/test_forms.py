"""Whatever form an array has, and whatever is global in Keras."""

import tempfile

import h5py
import keras
import numpy as np
import pytest
from helpers import (
    EAGERLY,
    move_weights,
    random_images,
    to_numpy,
    untraced,
)
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow.checks import (
    ImageFormat,
    as_array,
    check_images,
    check_labels,
)
from keras_glow.data import ImageSequence
from keras_glow.flow.initialization import is_initialized
from keras_glow.losses import StandardNormalNLL

SHAPE = (4, 4, 3)
IMAGES = random_images(6, SHAPE)
LABELS = np.arange(6) % 3


class Subclass(np.ndarray):
    """An array of a class of somebody's own."""


class Frame:
    """Only convertible, as tables and data sets of other packages are."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


def unaligned(array):
    data = np.frombuffer(b"\0" + array.astype("<i4").tobytes(), "uint8")
    return data[1:].view("<i4").reshape(array.shape)


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def memory_map(array, folder):
    file = tempfile.mkdtemp(dir=folder) + "/array.npy"
    np.save(file, array)
    return np.load(file, mmap_mode="r")


def dataset_of_hdf5(array, folder):
    file = tempfile.mkdtemp(dir=folder) + "/array.h5"
    return h5py.File(file, "w").create_dataset("x", data=array)


def of_framework(array):
    return keras.ops.convert_to_tensor(array.astype("int32"))


FORMS = {
    **{
        dtype: lambda array, dtype=dtype: array.astype(dtype)
        for dtype in ("i2", "u4", "i8", "u8", ">u2", ">i2", ">i4", ">i8", ">u8")
    },
    "fortran": np.asfortranarray,
    "reversed": lambda array: array[..., ::-1].copy()[..., ::-1],
    "strided": lambda array: np.repeat(array, 2, axis=0)[::2],
    "unaligned": unaligned,
    "read_only": read_only,
    "subclass": lambda array: array.view(Subclass),
    "nothing_masked": np.ma.array,
    "objects": lambda array: array.astype(object),
    "object_of_images": lambda array: np.fromiter(array, object),
    "list": list,
    "lists": lambda array: array.tolist(),
    "convertible": Frame,
    "tensor": of_framework,
}
FILES = {
    "memory_map": memory_map,
    "memory_map_big_endian": lambda array, folder: memory_map(
        array.astype(">i2"), folder
    ),
    "hdf5": dataset_of_hdf5,
    "hdf5_big_endian": lambda array, folder: dataset_of_hdf5(
        array.astype(">i2"), folder
    ),
}


@pytest.fixture(params=[*FORMS, *FILES])
def form(request, tmp_path):
    """A function that brings an array of integers into another form."""
    if request.param in FORMS:
        return FORMS[request.param]
    return lambda array: FILES[request.param](array, tmp_path)


@pytest.mark.every_backend
def test_integers_of_any_form_are_their_plain_copy(form):
    images = check_images(form(IMAGES), ImageFormat(SHAPE))
    assert type(images) is np.ndarray
    assert images.dtype == "uint8"
    assert_array_equal(images, IMAGES)
    labels = check_labels(form(LABELS), 6, 3)
    assert labels.dtype == "int32"
    assert_array_equal(labels, LABELS)
    ((batch, labels),) = ImageSequence(
        form(IMAGES), form(LABELS), batch_size=6, shuffle=False
    )
    assert_array_equal(batch, IMAGES)
    assert_array_equal(labels, LABELS)
    assert batch.dtype.isnative
    assert labels.dtype.isnative


def test_a_plain_memory_map_is_not_read_as_a_whole(tmp_path):
    images = memory_map(IMAGES, tmp_path)
    assert np.shares_memory(check_images(images, ImageFormat(SHAPE)), images)
    assert np.shares_memory(ImageSequence(images).images, images)


@pytest.mark.parametrize(
    "bad, reason",
    [
        (np.ma.array(IMAGES, mask=IMAGES == IMAGES[0, 0, 0, 0]), "masked$"),
        (IMAGES.astype(object) + 0.5, "float64 array of shape"),
        (np.array([2**70], object), "object array of shape"),
        (np.array([[1], [2, 3]], object), "object array of shape"),
    ],
)
def test_what_has_no_plain_copy_is_refused_in_one_line(bad, reason):
    with pytest.raises(ValueError, match=f"^`images` is expected.*{reason}"):
        check_images(bad, ImageFormat(SHAPE))


@pytest.fixture(scope="module")
def model():
    model = keras_glow.Glow(
        SHAPE, levels=1, depth=1, width=4, num_classes=3, seed=1
    )
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=EAGERLY)
    model.fit(IMAGES, LABELS, verbose=0)
    move_weights(model, 0.05)
    return untraced(model)


class Sequence(keras.utils.PyDataset):
    """One batch, whatever it is."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch if len(self.batch) > 1 else self.batch[0]


def doors(model, form=np.asarray):
    """What each door of a model gives for images and labels in a form."""
    images, labels = form(IMAGES), form(LABELS)
    z = model.encode(images, labels)
    x = model.dequantize(images, seed=0)
    if form is not np.asarray:
        z, x = (array.astype(">f8") for array in (z, x))

    def batches():
        yield images, labels

    fit = model.fit(
        images,
        labels,
        validation_data=(images, labels),
        shuffle=False,
        verbose=0,
    ).history
    return {
        "encode": z,
        "dequantize": x,
        "log_prob": model.log_prob(images, seed=0, labels=labels),
        "bits_per_dim": model.bits_per_dim(images, seed=0, labels=labels),
        "decode": model.decode(z, labels),
        "evaluate": model.evaluate(images, labels, verbose=0),
        "evaluate batches": model.evaluate(batches(), verbose=0),
        "evaluate sequence": model.evaluate(
            Sequence(images, labels), verbose=0
        ),
        "fit": fit["val_loss"],
        "predict": model.predict([images, labels], verbose=0),
        "predict_on_batch": model.predict_on_batch([images, labels]),
        "call": to_numpy(model((images, labels))),
        "encoder": to_numpy(model.encoder([x, labels])),
        "encoder.predict": model.encoder.predict([x, labels], verbose=0),
        "decoder": model.decoder.predict_on_batch([z, labels]),
    }


@pytest.mark.every_backend
def test_every_door_takes_the_other_byte_order(model):
    expected = doors(model)
    assert_array_equal(expected["decode"], IMAGES)
    actual = doors(model, lambda array: array.astype(">i4"))
    for name, value in expected.items():
        assert_allclose(actual[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.every_backend
def test_batches_need_no_tuple():
    model = keras_glow.Glow((4, 4, 1), 1, 1, 4)
    model.compile("sgd")
    images = random_images(4, (4, 4, 1))
    expected = model.evaluate(images, verbose=0)
    for batches in ((x for x in [images]), Sequence(images)):
        assert_allclose(model.evaluate(batches, verbose=0), expected, 1e-6)
    model.fit((x for x in [images]), verbose=0)


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_an_encoder_is_trained_batch_by_batch(dtype):
    model = keras_glow.Glow((4, 4, 1), 1, 1, 4)
    x = model.dequantize(random_images(4, (4, 4, 1)), seed=0).astype(dtype)
    encoder, targets = model.encoder, np.zeros(4)
    encoder.compile(keras.optimizers.SGD(0.0), StandardNormalNLL())
    loss = encoder.train_on_batch(x, targets)
    assert is_initialized(encoder)
    assert_allclose(encoder.test_on_batch(x, targets), loss, 1e-5)


@pytest.mark.every_backend
def test_a_call_with_floats_is_refused_in_one_line(model):
    x = (IMAGES / 255).astype("float32")
    for call in (model, model.predict_on_batch):
        with pytest.raises(ValueError, match="^`x` is expected.*float32"):
            call((x, LABELS))
    with pytest.raises(ValueError, match="^`inputs`.*images, labels.*$"):
        model(IMAGES)


@pytest.fixture
def keras_config():
    """Puts back what a test changes of what is global in Keras."""
    floatx, layout = keras.config.floatx(), keras.config.image_data_format()
    yield keras.config
    keras.config.set_floatx(floatx)
    keras.config.set_image_data_format(layout)


def new_model():
    model = keras_glow.Glow((8, 8, 3), levels=2, depth=1, width=4)
    return untraced(model)


@pytest.mark.every_backend
def test_latents_do_not_depend_on_the_image_data_format(keras_config, tmp_path):
    images, model = random_images(4, (8, 8, 3)), new_model()
    z = model.encode(images)
    model.save(tmp_path / "model.keras")
    keras_config.set_image_data_format("channels_first")
    loaded = keras_glow.load_model(tmp_path / "model.keras")
    for other in (new_model(), untraced(loaded)):
        assert_allclose(other.encode(images), z, atol=1e-5)
        assert_array_equal(other.decode(z), images)


@pytest.mark.every_backend
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_a_floatx_of_half_precision_is_refused_in_one_line(keras_config, half):
    model = new_model()
    model.encoder.compile("adam", StandardNormalNLL())
    images = random_images(4, (8, 8, 3))
    x, z = model.dequantize(images, seed=0), model.encode(images)
    keras_config.set_floatx(half)
    for call in (
        new_model,
        keras_glow.layers.ActNorm,
        StandardNormalNLL,
        model.compile,
        lambda: model.encoder.fit(x, np.zeros(4), verbose=0),
    ):
        with pytest.raises(
            ValueError, match=f"^`keras.config.floatx.*'{half}'"
        ):
            call()
    assert_array_equal(model.encode(images), z)


@pytest.mark.every_backend
def test_a_float32_encoder_trains_under_a_floatx_of_float64(keras_config):
    keras_config.set_floatx("float64")
    model = new_model()
    model.encoder.compile("sgd", StandardNormalNLL(), run_eagerly=EAGERLY)
    x = model.dequantize(random_images(4, (8, 8, 3)), seed=0)
    losses = model.encoder.fit(x, np.zeros(4), verbose=0).history["loss"]
    assert np.isfinite(losses).all()


@pytest.mark.every_backend
def test_an_encoder_is_not_trained_under_another_floatx(keras_config):
    model = new_model()
    model.encoder.compile("sgd", StandardNormalNLL())
    x = model.dequantize(random_images(4, (8, 8, 3)), seed=0)
    keras_config.set_floatx("float64")
    for train in (model.encoder.fit, model.encoder.train_on_batch):
        with pytest.raises(ValueError, match="^`keras.*float32, as this"):
            train(x, np.zeros(4))


def test_plain_arrays_are_not_copied():
    assert as_array(IMAGES) is IMAGES
