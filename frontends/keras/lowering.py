"""What rows are written with: the builder, and a layer with its configuration and variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ir import dtypes
from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten
from lepton_ir.frontends.keras import table
from lepton_ir.frontends.keras.config import Layer, parse_layer
from lepton_ir.frontends.keras.weights import Weights, children, variables
from lepton_ir.frontends.sized import SizedBuilder, Sym
from lepton_ir.ir import Value
from lepton_ir.tensors import LazyTensor, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.dtypes import DType
    from lepton_ir.ir import Block

_NAMES = {
    "float16": dtypes.F16,
    "bfloat16": dtypes.BF16,
    "float32": dtypes.F32,
    "float64": dtypes.F64,
    "int8": dtypes.I8,
    "int16": dtypes.I16,
    "int32": dtypes.I32,
    "int64": dtypes.I64,
    "uint8": dtypes.U8,
    "uint16": dtypes.U16,
    "uint32": dtypes.U32,
    "uint64": dtypes.U64,
    "bool": dtypes.BOOL,
}


def policy_name(policy: Any) -> str:
    """Return the name of a dtype policy of either dialect."""
    if isinstance(policy, dict):
        policy = (policy.get("config") or {}).get("name", "float32")
    return policy if isinstance(policy, str) else "float32"


def dtype_named(policy: Any) -> DType:
    """Return the element type that a policy computes in.

    Raises:
        UnsupportedError: there is none of this name.
    """
    name = policy_name(policy).removeprefix("mixed_")
    found = _NAMES.get(name)
    if found is None:
        raise UnsupportedError(f"dtype {shorten(name)} is not supported", code="keras-dtype")
    return found


class KerasBuilder(SizedBuilder):
    """A builder that knows which tensors have masks.

    Attributes:
        masks: bools of (batch, steps) for tensors whose steps may be void.
    """

    def __init__(self, block: Block, masks: dict[Value, Value] | None = None) -> None:
        super().__init__(block)
        self.masks: dict[Value, Value] = {} if masks is None else masks

    def together(self, *items: Any) -> list[Value]:
        """Return operands in one element type; numbers take that of the tensors."""
        values = [i for i in items if isinstance(i, Value)]
        dtype = values[0].dtype if values else dtypes.F32
        for value in values[1:]:
            dtype = _wider(dtype, value.dtype)
        assert dtype is not None
        if not dtype.is_float and any(isinstance(i, float) for i in items):
            dtype = dtypes.F32
        return [self.as_value(i, dtype) for i in items]

    def as_value(self, item: Any, dtype: DType) -> Value:
        """Return a tensor, a number, an array or a ``Sym`` as a value of ``dtype``."""
        if isinstance(item, Value):
            return self.cast_to(item, dtype)
        if isinstance(item, (np.ndarray, list, tuple)):
            return self.const(np.asarray(item).astype(dtype.numpy), dtype)
        return self.scalar(item, dtype)

    def floating(self, x: Value) -> Value:
        """Return ``x`` as floats."""
        assert x.dtype is not None
        return x if x.dtype.is_float else self.cast_to(x, dtypes.F32)


def _wider(a: DType | None, b: DType | None) -> DType | None:
    if a is b or b is None:
        return a
    if a is None or (b.is_float and not a.is_float):
        return b
    if a.is_float and not b.is_float:
        return a
    return a if a.bits >= b.bits else b


class Context:
    """A layer being built.

    Attributes:
        b: the builder.
        layer: class, name and configuration.
        config: the configuration.
        dtype: the element type that the layer computes in.
    """

    def __init__(self, b: KerasBuilder, layer: Layer, weights: Weights, reader: Any) -> None:
        self.b = b
        self.layer = layer
        self.config = layer.config
        self.weights = weights
        self.reader = reader
        self._dtype: DType | None = None

    @property
    def dtype(self) -> DType:
        if self._dtype is None:
            self._dtype = dtype_named(self.config.get("dtype", "float32"))
        return self._dtype

    def get(self, name: str, default: Any = None) -> Any:
        """Return an entry of the configuration."""
        return self.config.get(name, default)

    def call(self, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Build the layer over its operands, floats in the layer's own type."""
        row = self.reader.custom.get(self.layer.class_name)
        build = row or table.load()[self.layer.class_name].build
        mask = kwargs.pop("mask", None)
        kwargs = {
            k: v for k, v in kwargs.items() if v is not None and k not in ("training", "dtype")
        }
        args = [self._own(a) for a in args]
        if mask is not None and isinstance(mask, Value) and args and isinstance(args[0], Value):
            self.b.masks[args[0]] = mask
        return build(self.b, self, *args, **{k: self._own(v) for k, v in kwargs.items()})

    def _own(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._own(i) for i in item]
        if isinstance(item, Value) and item.dtype is not None and item.dtype.is_float:
            if self.layer.class_name in _ANY_TYPE:
                return item
            found = self.b.cast_to(item, self.dtype)
            if found is not item and item in self.b.masks:
                self.b.masks[found] = self.b.masks[item]
            return found
        return item

    # -- variables ---------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Return whether the layer has a variable."""
        return name in variables(self.layer)

    def tensor(self, name: str) -> Tensor:
        """Return a variable's data.

        Raises:
            InvalidModelError: the file has none.
        """
        found = self.weights.own(self.layer, name)
        if found is None:
            raise InvalidModelError(f"the file has no {name} of it", code="keras-weight")
        return found

    def weight(self, name: str) -> Value:
        """Return a variable as a constant of the layer's type."""
        return self.constant(name, self.tensor(name))

    def optional(self, name: str) -> Value | None:
        """Return a variable, ``None`` where the layer has none."""
        return self.weight(name) if self.has(name) else None

    def constant(self, name: str, tensor: Tensor) -> Value:
        """Return a constant named after the layer's variable."""
        if tensor.dtype.is_float and tensor.dtype is not self.dtype:
            to = self.dtype
            tensor = LazyTensor(lambda t=tensor: t.numpy().astype(to.numpy), to, tensor.shape)  # type: ignore[misc]
        return self.b.const(tensor, name=f"{self.layer.name}/{name}")

    def made(
        self, name: str, make: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], *shape: int
    ) -> Value:
        """Return a variable after ``make``, which is called when the data is first used."""
        tensor = self.tensor(name)
        lazy = LazyTensor(
            lambda: np.ascontiguousarray(make(tensor.numpy())), tensor.dtype, tuple(shape)
        )
        return self.constant(name, lazy)

    def child(self, name: str) -> Context:
        """Return an inner layer as a context."""
        inner = children(self.layer).get(name)
        if inner is None:
            raise InvalidModelError(f"it has no {name}", code="keras-layer")
        return Context(self.b, inner, self.weights.child(self.layer, name), self.reader)

    def inner(self, entry: Any, path: str) -> Context:
        """Return a layer that the configuration spells, whose variables lie at ``path``."""
        layer = parse_layer(entry)
        weights = self.weights
        for part in path.split("/"):
            weights = weights.child(self.layer, part)
        return Context(self.b, layer, weights, self.reader)

    def build(self, x: Any) -> Any:
        """Build this (inner) layer over an operand; models as well."""
        return self.reader.build(self.layer, self.weights, [x], {}, 0)

    # -- configuration -----------------------------------------------------------------------------

    @property
    def channels_last(self) -> bool:
        """Whether channels are the last axis."""
        return bool(self.config.get("data_format", "channels_last") != "channels_first")

    def activated(self, x: Value, name: str = "activation") -> Any:
        """Return ``x`` behind the layer's activation."""
        return activate(self.b, self.config.get(name), x)

    def keep_mask(self, x: Any, result: Any) -> Any:
        """Give the result the mask of the operand."""
        if isinstance(x, Value) and isinstance(result, Value) and x in self.b.masks:
            self.b.masks[result] = self.b.masks[x]
        return result


_ANY_TYPE = frozenset(("InputLayer", "Rescaling"))


def activate(b: KerasBuilder, activation: Any, x: Value) -> Any:
    """Return ``x`` behind an activation that a configuration names.

    Raises:
        UnsupportedError: there is none of this name.
    """
    config: dict[str, Any] = {}
    if isinstance(activation, dict):
        config = activation.get("config") or {}
        if isinstance(config, str):
            name, config = config, {}
        else:
            name = activation.get("class_name") or ""
    else:
        name = activation or "linear"
    table.load()
    if not isinstance(name, str):
        raise InvalidModelError(f"an activation is {name!r:.40}", code="keras-activation")
    if name == "linear":
        return x
    row = table.OPERATIONS.get(_camel(name)) or table.ROWS.get(name)
    if row is None:
        raise UnsupportedError(
            f"activation {shorten(name)} is not supported", code="keras-activation"
        )
    if isinstance(row, table.LayerRow):
        layer = Layer(name, "keras.layers", name, config)
        return row.build(b, Context(b, layer, Weights(), None), x)
    return row(b, x, **{k: v for k, v in config.items() if k not in ("name", "dtype")})


_SPELLED = {
    "silu": "Silu",
    "swish": "Silu",
    "elu": "Elu",
    "selu": "Selu",
    "gelu": "Gelu",
    "relu": "Relu",
    "relu6": "Relu6",
    "celu": "Celu",
    "glu": "Glu",
    "exponential": "Exp",
}


def _camel(name: str) -> str:
    """Return the class of ``keras.ops`` for an activation's name: ``hard_sigmoid`` HardSigmoid."""
    spelled = _SPELLED.get(name)
    return spelled or "".join(part.capitalize() for part in name.split("_"))


__all__ = ["Context", "KerasBuilder", "Sym", "activate", "dtype_named"]
