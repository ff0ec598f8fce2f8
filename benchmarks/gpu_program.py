"""The program that a GPU would run, compiled for an H100 without having one.

    python3.12 -m venv .aot
    .aot/bin/pip install jax==0.11.2 keras h5py pillow
    .aot/bin/pip install --no-deps --target .aot/cuda \
        jax-cuda13-pjrt==0.11.2 jax-cuda13-plugin==0.11.2
    PYTHONPATH=. .aot/bin/python benchmarks/gpu_program.py \
        --plugin .aot/cuda --network-dtype bfloat16

Compiles a whole step of training, or the program that scores, encodes or
decodes a batch, and prints one row of a Markdown table: the instructions of the
program's entry, of which each is a kernel, a call of a library or a copy; how
many of them are matrix products and convolutions, fusions, and copies; the MiB
that all of them read and write; and the MiB of temporary memory. `--largest 20`
lists the instructions that move most. Nothing is run, so nothing is timed: a
difference in a row shows what a change does to the program, not how fast it is.
`--out` keeps the program's text.
"""

import argparse
import collections
import math
import os
import pathlib
import re

PLUGIN = "jax_plugins/xla_cuda13/xla_cuda_plugin.so"
# As XLA describes this GPU to itself (`--xla_gpu_target_config_filename`).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
  l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536 name: "NVIDIA H100 80GB HBM3"
  driver_version: "13.0.0" runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
BITS = {"pred": 8, "bf16": 16}  # the others say theirs: f32, s32, u8
NO_WORK = "parameter constant bitcast tuple get-tuple-element".split()
KINDS = {
    "products": r"cublas|cudnn|__triton_(nested_)?gemm|\bdot\(|convolution\(",
    "copies": r"^(copy|copy-start|transpose)\(",
    "fusions": r"^fusion\(",
}
COLUMNS = ("instructions", *KINDS, "MiB moved", "MiB temporary")


def compile_step(options):
    """Returns the compiled program: a `jax.stages.Compiled`."""
    os.environ["KERAS_BACKEND"], os.environ["JAX_PLATFORMS"] = "jax", "cpu"
    import jax
    import keras
    import numpy as np
    from jax._src import xla_bridge
    from jax.experimental import topologies

    import keras_glow

    xla_bridge.register_plugin(
        "cuda", library_path=str(options.plugin / PLUGIN), priority=-1
    )
    gpu = topologies.get_topology_desc(
        "h100", "cuda", target_config=H100, topology="1x1x1"
    ).devices[0]

    def abstract(array):
        return jax.ShapeDtypeStruct(
            array.shape,
            array.dtype,
            sharding=jax.sharding.SingleDeviceSharding(gpu),
        )

    def values(variables):
        return [variable.value for variable in variables]

    shape = (options.size, options.size, 3)
    glow = keras_glow.Glow(
        shape,
        levels=options.levels,
        depth=options.depth,
        width=options.width,
        network_dtype=options.network_dtype,
        memory=options.memory,
        network=options.network,
        dropout=options.dropout,
    )
    glow.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1e5))
    glow.optimizer.build(glow.trainable_variables)
    if options.program == "train":
        images = np.zeros((options.batch_size, *shape), "uint8")
        variables = (
            glow.trainable_variables,
            glow.non_trainable_variables,
            glow.optimizer.variables,
            glow.metrics_variables,
        )
        arguments = [[values(v) for v in variables], (images,)]
        function = jax.jit(glow.train_step, donate_argnums=0)
    else:
        names = {"score": "scorer", "encode": "encoder", "decode": "decoder"}
        model = getattr(glow, names[options.program])
        inputs = np.zeros((options.batch_size, *model.input_shape[1:]), "f4")
        variables = model.trainable_variables, model.non_trainable_variables
        arguments = [*map(values, variables), inputs]
        function = jax.jit(lambda *a: model.stateless_call(*a)[0])
    arguments = jax.tree.map(abstract, arguments)
    return function.lower(*arguments).compile()


def bytes_of(shapes):
    """Returns the bytes of all arrays in a text such as `f32[8,2]{1,0}`."""
    found = re.findall(r"\b(pred|[a-z]+\d+)\w*\[([\d,]*)\]", shapes)
    return sum(
        (BITS.get(kind) or int(re.sub(r"\D", "", kind)))
        // 8
        * math.prod(map(int, filter(None, sizes.split(","))))
        for kind, sizes in found
    )


def instructions(text):
    """Yields name, kinds and bytes of all instructions that do any work.

    Those that a `call` runs stand in its place.
    """
    bodies, entry = collections.defaultdict(list), None
    for line in text.splitlines():
        begin = re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line)
        if begin and not line.startswith(" "):
            name = begin[2]
            entry = name if begin[1] else entry
        elif line.startswith("  "):
            bodies[name].append(line.strip())
    sizes = {}

    def walk(body):
        for line in bodies[body]:
            found = re.match(
                r"(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) (([\w-]+)\(.*)", line
            )
            if found is None:
                continue
            name, shape, rest, operation = found.groups()
            sizes[name] = bytes_of(shape)
            callee = re.search(r"(?:calls|to_apply)=%?([\w.-]+)", rest)
            if operation == "call":
                yield from walk(callee[1])
            elif operation not in NO_WORK:
                whole = rest
                if operation == "fusion":
                    whole += " ".join(bodies[callee[1]])
                kinds = [k for k, p in KINDS.items() if re.search(p, whole)]
                operands = rest.split("), ")[0]
                read = re.findall(r"%([\w.-]+)", operands)
                moved = sizes[name] + sum(sizes.get(r, 0) for r in read)
                yield name, kinds[:1], moved

    yield from walk(entry)


def main():
    """Prints the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--plugin", type=pathlib.Path, required=True, metavar="DIR")
    programs = ("train", "score", "encode", "decode")
    add("--program", choices=programs, default="train")
    add("--size", type=int, default=32)
    add("--levels", type=int, default=3)
    add("--depth", type=int, default=2)
    add("--width", type=int, default=512)
    add("--batch-size", type=int, default=32)
    add("--network-dtype", choices=["bfloat16", "float16"])
    add("--network", default="paper")
    add("--dropout", type=float, default=0.0)
    add("--memory", default="store")
    add("--largest", type=int, default=0)
    add("--out", type=pathlib.Path)
    options = parser.parse_args()
    program = compile_step(options)
    text = program.as_text()
    if options.out:
        options.out.write_text(text)
    found = list(instructions(text))
    counts = collections.Counter(k for _, kinds, _ in found for k in kinds)
    moved = sum(size for *_, size in found)
    temporary = program.memory_analysis().temp_size_in_bytes
    row = [len(found), *(counts[kind] for kind in KINDS)]
    row += [f"{size / 2**20:.0f}" for size in (moved, temporary)]
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    print("| " + " | ".join(map(str, row)) + " |")
    largest = sorted(found, key=lambda each: -each[2])[: options.largest]
    for name, kinds, size in largest:
        print(f"{size / 2**20:8.1f} MiB  {name}  {' '.join(kinds)}")


if __name__ == "__main__":
    main()
