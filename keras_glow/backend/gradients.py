"""Gradients by hand: the one file that speaks to each backend in its tongue.

Alike on TensorFlow, JAX and Torch:

- `custom_gradient(forward, backward, tensors)` runs `forward` and has the
  backward pass call `backward` in place of differentiating `forward`;
- `differentiate(function, tensors, output_gradients)` runs a function and
  pulls gradients back through it, at once;
- `wait_for(tensor, zero)` is `tensor`, computed after what `zero` comes of;
- `traced_once(function)` is `function`, in a compiled program once;
- `compiled(function)` is `function` as a compiled program, where there are any;
- `computed_once(tensor)` is a tensor that what reads it does not repeat;
- `choose(condition, one, other)` is one of two tensors;
- `relu(x)` keeps its output alone for the backward pass.
"""

import functools

import keras
from keras import ops


def custom_gradient(forward, backward, tensors):
    """`forward(*tensors)`, with a gradient of its own.

    Args:
        forward: function of the tensors to `(outputs, kept)`: a tuple of
            tensors, and nested tensors to keep for the backward pass.
        backward: function of `(kept, *output_gradients)` to one gradient for
            each of the tensors; None for those that are no floats.
        tensors: list of tensors or variables: all that need gradients. What
            the functions take from elsewhere gets none.

    Returns:
        Tuple of tensors, the outputs.
    """
    return _backend("custom_gradient")(forward, backward, tensors)


def differentiate(function, tensors, output_gradients):
    """Runs a function and pulls gradients of its outputs back to its inputs.

    Args:
        function: of the tensors to `(outputs, extra)`; `extra` is any further
            tensor, and is not differentiated.
        tensors: list of tensors.
        output_gradients: tuple of tensors like the outputs.

    Returns:
        Tuple of `extra` and the list of gradients, one for each of the tensors;
        None for those that are no floats.
    """
    return _backend("differentiate")(function, tensors, output_gradients)


def zero_after(tensors):
    """A scalar 0 that is known only after tensors are (those not None)."""
    firsts = [ops.reshape(t, (-1,))[0] for t in tensors if t is not None]
    return 0.0 * sum(firsts)


def wait_for(tensor, zero):
    """The tensor itself, made to depend on a `zero_after` others.

    What depends on nothing else, a compiled program may compute long before
    it is needed, and has to keep. Only data will do: XLA drops the control
    dependencies of TensorFlow, and on CPUs `optimization_barrier` of JAX.
    """
    if not _is_float(tensor):
        return tensor
    return tensor + ops.cast(zero, tensor.dtype)


def traced_once(function):
    """A function that a compiled program holds once and calls many times.

    On TensorFlow every operation of a graph costs start-up time and memory.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    if tf.executing_eagerly():
        return function
    return tf.function(
        function,
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def compiled(function):
    """A function of tensors, compiled where the backend does that.

    The weights that it reads may become constants of the program: use it
    before they change.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def computed_once(tensor):
    """The tensor, computed on its own, for all that read it.

    XLA on JAX would compute a row of hundreds of weights inside of each
    computation that reads it, and compile for minutes.
    """
    if keras.backend.backend() != "jax":
        return tensor
    import jax

    return jax.lax.optimization_barrier(tensor)


def choose(condition, one, other):
    """One tensor if a bool scalar is true, the other one if not."""
    if keras.backend.backend() != "tensorflow":
        return ops.where(condition, one, other)
    import tensorflow as tf

    # Hands one of them on, where `tf.where` would write a third.
    return tf.raw_ops.Select(condition=condition, x=one, y=other)


def relu(x):
    """`max(x, 0)`, whose gradient is taken from the output.

    Differentiated by JAX, `jax.nn.relu` keeps its input, which nothing else
    needs, beside its output, which the next layer keeps as well. The other
    backends keep the output by themselves.
    """
    if keras.backend.backend() != "jax":
        return ops.relu(x)
    return _jax_relu()(x)


@functools.cache
def _jax_relu():
    import jax

    @jax.custom_jvp
    def relu(x):
        # The barrier has XLA keep the output, not compute it anew from x.
        return computed_once(jax.numpy.maximum(x, 0))

    # `output > 0` XLA would turn into `x > 0`, and keep x for it.
    relu.defjvps(
        lambda tangent, output, x: jax.numpy.where(output != 0, tangent, 0)
    )
    return relu


def _backend(name):
    backend = keras.backend.backend()
    functions = {
        "tensorflow": (_tensorflow_custom_gradient, _tensorflow_differentiate),
        "jax": (_jax_custom_gradient, _jax_differentiate),
        "torch": (_torch_custom_gradient, _torch_differentiate),
    }
    if backend not in functions:
        raise ValueError(
            "The backend is expected to have gradients, as tensorflow, jax "
            f"and torch. Received: {backend}"
        )
    return functions[backend][name == "differentiate"]


def _is_float(tensor):
    return keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(tensor.dtype)
    )


def _tensorflow_custom_gradient(forward, backward, tensors):
    import tensorflow as tf

    @tf.custom_gradient
    def function(*tensors):
        # No tape outside may record what is inside: it would keep it all.
        outputs, kept = forward(*map(tf.stop_gradient, tensors))
        return outputs, lambda *gradients: backward(kept, *gradients)

    # Variables are read here, in sight of the tape outside.
    return function(*map(tf.convert_to_tensor, tensors))


def _tensorflow_differentiate(function, tensors, output_gradients):
    import tensorflow as tf

    sources = [tensor for tensor in tensors if _is_float(tensor)]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        outputs, extra = function(*tensors)
    found = iter(
        tape.gradient(
            outputs,
            sources,
            output_gradients,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    )
    gradients = [next(found) if _is_float(t) else None for t in tensors]
    return extra, gradients


def _jax_custom_gradient(forward, backward, tensors):
    import jax

    function = jax.custom_vjp(lambda *tensors: forward(*tensors)[0])
    function.defvjp(
        forward, lambda kept, gradients: tuple(backward(kept, *gradients))
    )
    return function(*tensors)


def _jax_differentiate(function, tensors, output_gradients):
    import jax

    sources = [tensor for tensor in tensors if _is_float(tensor)]

    def of_sources(*sources):
        sources = iter(sources)
        return function(
            *(next(sources) if _is_float(t) else t for t in tensors)
        )

    _, pull_back, extra = jax.vjp(of_sources, *sources, has_aux=True)
    found = iter(pull_back(output_gradients))
    return extra, [next(found) if _is_float(t) else None for t in tensors]


def _torch_custom_gradient(forward, backward, tensors):
    import torch

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(context, *tensors):
            outputs, kept = forward(*tensors)
            flat = keras.tree.flatten(kept)
            context.save_for_backward(*flat)
            context.structure = kept
            return outputs

        @staticmethod
        def backward(context, *gradients):
            kept = keras.tree.pack_sequence_as(
                context.structure, context.saved_tensors
            )
            return tuple(backward(kept, *gradients))

    return Function.apply(*tensors)


def _torch_differentiate(function, tensors, output_gradients):
    import torch

    with torch.enable_grad():
        tensors = [
            tensor.detach().requires_grad_(_is_float(tensor))
            for tensor in tensors
        ]
        outputs, extra = function(*tensors)
    sources = [tensor for tensor in tensors if tensor.requires_grad]
    # Torch refuses outputs that no source has a part in.
    pairs = zip(outputs, output_gradients, strict=True)
    pairs = [(o, gradient) for o, gradient in pairs if o.requires_grad]
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            sources,
            [gradient for _, gradient in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
    )
    gradients = [next(found) if t.requires_grad else None for t in tensors]
    return extra.detach(), gradients
