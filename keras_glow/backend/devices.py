"""Training on several devices, by the means of each backend.

- TensorFlow: the replicas of a `tf.distribute` strategy, each with its part of
  the batch and its own copy of the step.
- JAX: the shards of a `keras.distribution`; the step is one program for all.
- Torch: the processes of `torch.distributed`.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_glow.backend.keras_internals import strategy
from keras_glow.checks import refuse


def count_shards():
    """Returns into how many equal parts JAX has to be able to cut a batch."""
    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return 1
    return distribution.num_model_replicas


def count_devices(model):
    """Returns among how many devices `predict` of a model shares a batch."""
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.num_replicas_in_sync
    return count_shards()


def count_processes():
    """Returns how many processes JAX trains in."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def gather_from_processes(images):
    """Returns the images of this process and, on JAX, of the others: one array.

    Results computed from them outside a step are then equal in all processes.
    Torch copies weights from process 0 by itself.
    """
    if count_processes() == 1:
        return images
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(images, tiled=True))


def replica_of_strategy():
    """Returns the index of this `tf.distribute` replica, and their count."""
    if keras.backend.backend() != "tensorflow":
        return 0, 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    count = tf.distribute.get_strategy().num_replicas_in_sync
    if count == 1 or context is None:
        return 0, 1
    return context.replica_id_in_sync_group, count


def shift_noise_by_replica(noise):
    """Returns noise that is uniform in [0, 1) and differs on each replica.

    All replicas have the same seed and draw the same numbers. Replica r of n
    shifts them by r/n: they stay uniform, and are spread more evenly than
    independent draws.
    """
    replica, count = replica_of_strategy()
    if keras.backend.backend() == "torch":
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            replica = distributed.get_rank()
            count = distributed.get_world_size()
    if count == 1:
        return noise
    shift = ops.cast(replica, noise.dtype) / count
    return (noise + shift) % 1


@contextlib.contextmanager
def devices(count):
    """Makes and trains models on the first `count` devices of this machine.

    They are GPUs or, if there are none, CPUs.

    Raises:
        ValueError: if there are fewer devices, or the backend cannot do this.
    """
    if count == 1:
        yield
        return
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        refuse(
            "devices",
            f"1 on {backend}, where each device has a process of its own "
            "(docs/devices.md)",
            count,
        )
    found = keras.distribution.list_devices()
    if len(found) < count:
        refuse("devices", f"{len(found)} at most, as there are here", count)
    if backend == "tensorflow":
        import tensorflow as tf

        names = [name.upper() for name in found[:count]]
        scope = tf.distribute.MirroredStrategy(names).scope()
    else:
        scope = keras.distribution.DataParallel(devices=found[:count]).scope()
    with scope:
        yield


# The rest is for optimisers on TensorFlow.


def all_replicas_agree(condition):
    """Returns whether a bool tensor is true on all replicas."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    count = context.all_reduce("SUM", ops.cast(condition, "int32"))
    return ops.equal(count, context.num_replicas_in_sync)


def assign_on_each(optimizer, variables, values):
    """Assigns to the copy of each replica the values that it computed."""
    import tensorflow as tf

    def assign(distribution, values):
        for variable, value in zip(variables, values, strict=True):
            distribution.extended.update(
                getattr(variable, "value", variable),
                lambda own, value: own.assign(value),
                args=(value,),
                group=False,
            )

    tf.__internal__.distribute.interim.maybe_merge_call(
        assign, strategy(optimizer), values
    )
