"""JAX: custom gradients, compiled functions, TensorFloat-32."""

import jax

from keras_glow.backend.portable import is_float


def custom_gradient(forward, backward, tensors):
    function = jax.custom_vjp(lambda *tensors: forward(*tensors)[0])
    function.defvjp(
        forward, lambda kept, gradients: tuple(backward(kept, *gradients))
    )
    return function(*tensors)


def differentiate(function, tensors, output_gradients):
    sources = [tensor for tensor in tensors if is_float(tensor)]

    def of_sources(*sources):
        sources = iter(sources)
        return function(*(next(sources) if is_float(t) else t for t in tensors))

    _, pull_back, extra = jax.vjp(of_sources, *sources, has_aux=True)
    gradients = iter(pull_back(output_gradients))
    return extra, [next(gradients) if is_float(t) else None for t in tensors]


def compile_function(function):
    return jax.jit(function)


def compiles_operations(tensors):
    # Those that a program is being traced with are no values yet.
    leaves = jax.tree.leaves(tensors)
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def materialize(tensor):
    # XLA would compute a row of hundreds of weights inside each computation
    # that reads it, and compile for minutes.
    return jax.lax.optimization_barrier(tensor)


@jax.custom_jvp
def relu(x):
    # When JAX differentiates `jax.nn.relu`, it keeps the input, which nothing
    # else needs, besides the output, which the next layer keeps anyway.
    # The barrier makes XLA keep the output instead of recomputing it from x.
    return materialize(jax.numpy.maximum(x, 0))


@relu.defjvp
def _relu_jvp(primals, tangents):
    output = relu(*primals)
    # XLA would turn `output > 0` into `x > 0`, and keep x for it.
    return output, jax.numpy.where(output != 0, *tangents, 0)


def exact_products():
    return jax.default_matmul_precision("highest")


def has_gpu():
    return jax.default_backend() == "gpu"


def computes_bfloat16():
    return has_gpu() and float(jax.devices()[0].compute_capability) >= 8
