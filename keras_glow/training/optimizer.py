"""The optimiser that `Glow.compile` wraps around the one it is given."""

import contextlib
import math
import warnings
import zlib

import keras
import numpy as np
from keras import ops

from keras_glow.backend import (
    assign_parts,
    concatenate,
    devices,
    keras_internals,
    materialize,
    select,
)
from keras_glow.checks import refuse

# Elementwise optimisers: concatenating all weights into one vector does not
# change their updates.
ELEMENTWISE = (
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adamax,
    keras.optimizers.Ftrl,
    keras.optimizers.Lion,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
    keras.optimizers.SGD,
)


def guarded(optimizer, network_dtype=None, current=None):
    """Wraps an optimiser in a `GuardedOptimizer`.

    For networks in float16, whose small gradients would be 0, a
    `LossScaleOptimizer` is put around that, as Keras does under the policy
    `mixed_float16`. A `LossScaleOptimizer` is returned as it is: it leaves out
    steps by itself. Only averages are looked after inside it.

    `optimizer` may be a name, `network_dtype` is that of the coupling networks.
    `current` is what this function returned for the model before, or None: if
    it holds the optimiser, it is returned with all its state.
    """
    if optimizer is None:
        refuse("optimizer", "a Keras optimizer or its name", optimizer)
    optimizer = keras.optimizers.get(optimizer)
    inside = [*keras_internals.nested_optimizers(current)][1:]
    if any(inner is optimizer for inner in inside):
        return current
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = optimizer.inner_optimizer
        if inner.use_ema and not isinstance(inner, GuardedOptimizer):
            optimizer.inner_optimizer = GuardedOptimizer(inner)
        return optimizer
    if not isinstance(optimizer, GuardedOptimizer):
        optimizer = GuardedOptimizer(optimizer)
    if network_dtype == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def batches_seen(optimizer):
    """Returns the number of batches an optimiser was given, skipped or not.

    What a `LossScaleOptimizer` skips is counted nowhere, and so not here.
    """
    *guards, inner = keras_internals.nested_optimizers(optimizer)
    counts = [keras_internals.iterations(inner)]
    counts += [g.skipped for g in guards if isinstance(g, GuardedOptimizer)]
    return sum(int(ops.convert_to_numpy(count)) for count in counts)


@keras.saving.register_keras_serializable(package="keras_glow")
class GuardedOptimizer(keras.optimizers.Optimizer):
    """Leaves out steps that are not finite, and updates all weights at once.

    A step whose loss or gradient is not finite changes the two counters and
    nothing else: neither weights nor moments, averages or iterations.

    A Glow has hundreds of small weights. Updating each by itself takes
    TensorFlow longer to trace than everything else, and much of every step. So
    the inner optimiser gets a single variable, the concatenation of all
    weights; the updates are the same. Optimisers and settings that look at a
    weight as a whole (`Lamb`, `Muon`, `clipnorm`, exclusions from weight decay,
    `ema_overwrite_frequency`, classes of your own) get the weights one by one,
    as usual. This is also the case if the weights have several dtypes, and on
    several replicas of `tf.distribute`, where a step is left out on all of them
    or on none.

    Args:
        inner_optimizer: a keras.optimizers.Optimizer, not built for other
            weights.
        name: str.

    Attributes:
        inner_optimizer: as given.
        learning_rate: that of the inner optimiser; it may be set.
        iterations: steps taken.
        skipped: int variable, steps left out.
        skipped_in_a_row: int variable, steps left out since the last one taken.
        keeps_averages: bool, whether it keeps averages of the weights.
        averaged: int, 0 while the model holds its own weights. While it holds
            the averages, and the averages' variables hold the weights, it is
            one more than the checksum of the averages.
    """

    def __init__(self, inner_optimizer, name="guarded_optimizer"):
        super().__init__(
            learning_rate=0.0,
            name=name,
            use_ema=inner_optimizer.use_ema,
            ema_momentum=inner_optimizer.ema_momentum,
        )
        self.inner_optimizer = inner_optimizer
        self.keeps_averages = inner_optimizer.use_ema
        self.averaged = 0
        self.skipped = self._counter("skipped")
        self.skipped_in_a_row = self._counter("skipped_in_a_row")

    def _counter(self, name):
        return self.add_variable(
            (), dtype="int32", aggregation="only_first_replica", name=name
        )

    def build(self, variables):
        if self.built:
            return
        _check_optimized(self.inner_optimizer, variables)
        distribution = keras_internals.strategy(self)
        self.replicas = getattr(distribution, "num_replicas_in_sync", 1)
        self.packed = self.replicas == 1 and self._may_pack(variables)
        if self.packed:
            # Averages are kept weight by weight, where Keras looks for them.
            self.inner_optimizer.use_ema = False
            size = sum(math.prod(v.shape) for v in variables)
            row = keras.Variable(
                ops.zeros((size,), variables[0].dtype),
                trainable=False,
                name="weights",
            )
            # This bypasses Keras' tracking: the variable holds nothing that
            # matters between steps.
            object.__setattr__(self, "_row", row)
        else:
            self.use_ema = False
        with distribution.scope() if distribution else contextlib.nullcontext():
            inner_variables = [self._row] if self.packed else variables
            self.inner_optimizer.build(inner_variables)
            super().build(variables)

    def _may_pack(self, variables):
        inner = self.inner_optimizer
        return (
            not inner.built
            and _keras_class(inner) in ELEMENTWISE
            and inner.clipnorm is None
            and inner.ema_overwrite_frequency is None
            and not hasattr(inner, "_exclude_from_weight_decay")
            and len({v.dtype for v in variables}) == 1
        )

    @property
    def variables(self):
        return [*self._variables, *self.inner_optimizer.variables]

    def apply(self, grads, trainable_variables=None):
        variables = trainable_variables or self._trainable_variables
        if not self.built:
            self.build(variables)
        # There is no condition here: with one, XLA takes minutes to compile on
        # TensorFlow. The effect of a bad gradient is undone instead.
        apply = self._apply_packed if self.packed else self._apply_inner
        finite = apply(grads, variables)
        skipped = 1 - ops.cast(finite, "int32")
        self.skipped.assign_add(skipped)
        self.skipped_in_a_row.assign((self.skipped_in_a_row + 1) * skipped)

    def _apply_inner(self, grads, variables):
        finite = _all_finite(g for g in grads if g is not None)
        state = [*variables, *self.inner_optimizer.variables]
        before = [ops.copy(v) for v in state]
        self.inner_optimizer.apply(grads, variables)
        # The square of a gradient may overflow where the gradient does not.
        floats = [v for v in state if keras.backend.is_float_dtype(v.dtype)]
        finite = ops.logical_and(finite, _all_finite(floats))
        if self.replicas > 1:
            finite = devices.all_replicas_agree(finite)
        taken = [
            select(finite, ops.convert_to_tensor(variable), value)
            for variable, value in zip(state, before, strict=True)
        ]
        if self.replicas > 1:
            devices.assign_on_each(self, state, taken)
        else:
            for variable, value in zip(state, taken, strict=True):
                self.assign(variable, value)
        return finite

    def _apply_packed(self, grads, variables):
        given = dict(zip(map(id, variables), grads, strict=True))
        pairs = [(given.get(id(v)), v) for v in self._trainable_variables]
        grads = _pack(ops.zeros_like(v) if g is None else g for g, v in pairs)
        row, first = self._row, ops.equal(self.iterations, 0)
        self.assign(row, _pack(self._trainable_variables))
        finite = self._apply_inner([grads], [row])
        self._unpack(row, self._trainable_variables, only=variables)
        if self.use_ema:
            averages = self._model_variables_moving_average
            before = _pack(averages)
            momentum = ops.where(first, 0.0, self.ema_momentum)
            momentum = ops.cast(momentum, row.dtype)
            after = momentum * before + (1 - momentum) * row
            self._unpack(select(finite, after, before), averages)
        return finite

    def _unpack(self, row, variables, only=None):
        chosen = {id(v) for v in only or variables}
        # A frozen weight keeps its value.
        wanted = [id(v) in chosen for v in variables]
        assign_parts(variables, row, wanted, self.assign)

    def scale_loss(self, loss):
        # A loss that is not finite may have a gradient that is.
        finite = ops.where(ops.isfinite(loss), 1.0, math.nan)
        return self.inner_optimizer.scale_loss(loss) * ops.cast(
            finite, loss.dtype
        )

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def use_averages(self, wanted):
        """Exchanges the model's weights and their averages.

        Weights that somebody has assigned while the model held the averages
        are its own from then on, and its averages too. Nothing happens if the
        model holds what is wanted, if there are no averages, or before the
        first step.
        """
        averages = self._averages()
        if not averages or wanted == bool(self.averaged):
            return
        if wanted and not ops.convert_to_numpy(self.iterations):
            return
        variables = self._trainable_variables
        before, self.averaged = self.averaged, 0
        if not wanted and before != _checksum(variables):
            return self._restart_averages()
        # These are copies, because on JAX a variable keeps the very array that
        # it is assigned, and a compiled step may free that array.
        for variable, average in zip(variables, averages, strict=True):
            value = ops.copy(variable)
            variable.assign(ops.copy(average))
            average.assign(value)
        if wanted:
            self.averaged = _checksum(variables)

    def _averages(self):
        if not (self.built and self.keeps_averages):
            return None
        owner = self if self.packed else self.inner_optimizer
        return keras_internals.averages(owner)

    def _restart_averages(self):
        pairs = zip(self._trainable_variables, self._averages(), strict=True)
        for variable, average in pairs:
            average.assign(ops.copy(variable))

    def finalize_variable_values(self, var_list):
        """Leaves the averages in the model, and goes on from them."""
        self.use_averages(True)
        if self.averaged:
            self.averaged = 0
            self._restart_averages()

    def exclude_from_weight_decay(self, *args, **kwargs):
        self.inner_optimizer.exclude_from_weight_decay(*args, **kwargs)

    def save_own_variables(self, store):
        # Keras saves the inner optimiser beside this one by itself.
        for number, variable in enumerate(self._variables):
            store[str(number)] = variable.numpy()
        if self.keeps_averages:
            store["averaged"] = np.array(self.averaged)

    def load_own_variables(self, store):
        names = set(store.keys()) - {"averaged"}  # older files have none
        if len(names) != len(self._variables):
            warnings.warn(  # as Keras' own optimisers do
                f"Skipping variable loading for optimizer '{self.name}', "
                f"because it has {len(self._variables)} variables whereas the "
                f"saved optimizer has {len(names)} variables.",
                stacklevel=2,
            )
            return
        for number, variable in enumerate(self._variables):
            variable.assign(store[str(number)])
        self.averaged = 0
        if "averaged" in store.keys():
            self.averaged = int(np.array(store["averaged"]))

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        if inner["module"].startswith(keras_internals.TORCH_OPTIMIZERS):
            inner["module"] = "keras.optimizers"  # for the other backends
        if self.keeps_averages:
            inner["config"]["use_ema"] = True
        return {"inner_optimizer": inner, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner})


def check_compiled(model):
    """Refuses a model that is not compiled: not all backends of Keras do."""
    if not model.compiled:
        raise ValueError("`compile()` is expected to be called before.")


def check_trained(model):
    """Refuses to train other weights than the optimiser was built for.

    What is trained is settled when the optimiser is built and the step is
    compiled: layers that are frozen or unfrozen later would stay as they were.

    Raises:
        ValueError: if it is not compiled, no weight is trainable, or others
            than before are.
    """
    check_compiled(model)
    variables = model.trainable_variables
    if not variables:
        raise ValueError(
            "`trainable` is expected to be True for one weight or more. "
            "Received: trainable=False for all"
        )
    _check_optimized(model.optimizer, variables)


def _check_optimized(optimizer, variables):
    """Refuses an optimiser that was built for other variables."""
    known = keras_internals.optimized(optimizer)
    if known is not None and [*map(id, known)] != [*map(id, variables)]:
        raise ValueError(
            "`compile` is expected to be called with a new optimizer after "
            "`trainable` has changed or for another model. Received: an "
            "optimizer of other weights than those that are trainable now"
        )


def _checksum(variables):
    total = 0
    for variable in variables:
        value = np.ascontiguousarray(ops.convert_to_numpy(variable))
        total = zlib.crc32(value, total)
    return 1 + total


def _keras_class(optimizer):
    """Returns the class of an optimiser by which all backends know it."""
    kind = type(optimizer)
    if kind.__module__.startswith(keras_internals.TORCH_OPTIMIZERS):
        return getattr(keras.optimizers, kind.__name__)
    return kind


def _all_finite(tensors):
    """Returns whether all numbers are finite, judged by their sum.

    The sum is not finite if one number is not, and adding takes half the time
    of testing each number. A sum of finite numbers would have to exceed 3e38 to
    be mistaken for one that is not finite.
    """
    sums = [ops.sum(ops.convert_to_tensor(tensor)) for tensor in tensors]
    return ops.all(ops.stack([ops.isfinite(total) for total in sums]))


def _pack(tensors):
    return materialize(concatenate(tensors))
