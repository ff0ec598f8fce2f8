"""Torch: custom gradients, recorded functions, TensorFloat-32."""

import itertools

import torch
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx

from keras_glow.backend import portable
from keras_glow.backend.portable import flatten, is_float, pack


def custom_gradient(forward, backward, tensors):
    """See `keras_glow.backend`."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(context, *tensors):
            outputs, kept = forward(*tensors)
            flat = flatten(kept)
            context.save_for_backward(*flat)
            # The tensors themselves would keep each other in memory.
            context.structure = pack(kept, len(flat) * [None])
            return outputs

        @staticmethod
        def backward(context, *gradients):
            kept = pack(context.structure, context.saved_tensors)
            return tuple(backward(kept, *gradients))

    return Function.apply(*tensors)


def differentiate(function, tensors, output_gradients):
    """See `keras_glow.backend`."""
    with torch.enable_grad():
        tensors = [
            tensor.detach().requires_grad_(is_float(tensor))
            for tensor in tensors
        ]
        outputs, extra = function(*tensors)
    sources = [tensor for tensor in tensors if tensor.requires_grad]
    # Torch refuses outputs that depend on no source.
    pairs = zip(outputs, output_gradients, strict=True)
    pairs = [(o, gradient) for o, gradient in pairs if o.requires_grad]
    gradients = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            sources,
            [gradient for _, gradient in pairs],
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return extra.detach(), [
        next(gradients) if t.requires_grad else None for t in tensors
    ]


def shared_trace(function, programs):
    """See `keras_glow.backend`.

    Keras takes longer for an operation than Torch does, so the operations are
    recorded once, and replayed from then on.
    """
    if programs is None:
        return function

    def replay(*arguments):
        if torch.compiler.is_compiling():
            return function(*arguments)
        tensors = flatten(arguments)
        key = tuple((t.shape, t.dtype, t.device) for t in tensors)
        if key not in programs:

            def flat(*tensors):
                return function(*pack(arguments, tensors))

            with torch.inference_mode(False), torch.no_grad():
                examples = map(torch.zeros_like, tensors)
                programs[key] = make_fx(flat)(*examples).forward
        return programs[key](*tensors)

    return replay


_constants = {}


def constant(array, like):
    """See `keras_glow.backend`.

    A copy from the host in every call would have a GPU wait for it.
    """
    key = id(array), like.dtype, like.device
    if key not in _constants:
        tensor = torch.as_tensor(array, dtype=like.dtype, device=like.device)
        _constants[key] = array, tensor  # the array keeps its id
    return _constants[key][1]


def convolution(x, kernel, bias, padding):
    """See `keras_glow.backend`; `ops.conv` would first copy x, twice."""
    x, kernel = map(ops.convert_to_tensor, (x, kernel))
    own = _of_dtype(bias, x.dtype)
    z = torch.conv2d(
        x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), own, padding=padding
    )
    z = z.permute(0, 2, 3, 1)
    return z if own is not None else portable.plus(z, bias)


def product(x, kernel, bias):
    """See `keras_glow.backend`."""
    own = _of_dtype(bias, x.dtype)
    if own is None:
        return portable.product(x, kernel, bias)
    return torch.addmm(own, x, kernel)


def _of_dtype(bias, dtype):
    """Returns a bias as a tensor if it has this dtype, or else None."""
    if bias is None or ops.convert_to_tensor(bias).dtype != dtype:
        return None
    return ops.convert_to_tensor(bias)


def concatenate(tensors):
    """See `keras_glow.backend`."""
    return torch.cat([ops.convert_to_tensor(t).reshape(-1) for t in tensors])


def assign_parts(variables, row, wanted, assign):
    """See `keras_glow.backend`: one call instead of one for each weight."""
    values = [variable.value for variable in variables]
    row = ops.convert_to_tensor(row)
    parts = row.split([value.numel() for value in values])
    parts = [p.view(v.shape) for p, v in zip(parts, values, strict=True)]
    with torch.no_grad():
        torch._foreach_copy_(
            list(itertools.compress(values, wanted)),
            list(itertools.compress(parts, wanted)),
        )


def set_tf32(allowed):
    """Sets TensorFloat-32 for the process.

    Since Torch 2.9 there are two kinds of settings. `allow_tf32 = False` alone
    leaves convolutions to the newer `fp32_precision`, which may allow it; and
    Torch raises an error when a program reads one kind and the other disagrees.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    for settings in (torch.backends.cudnn, torch.backends.mkldnn):
        settings.fp32_precision = "tf32" if allowed else "ieee"


def has_gpu():
    """See `keras_glow.backend`."""
    return torch.cuda.is_available()


def computes_bfloat16():
    """See `keras_glow.backend`."""
    return has_gpu() and torch.cuda.get_device_capability() >= (8,)
