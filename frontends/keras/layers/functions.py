"""TensorFlow's operators and functions in functional models of Keras 2."""

from __future__ import annotations

from typing import Any

from lepton_ir.diagnostics import UnsupportedError, shorten
from lepton_ir.frontends.keras import table
from lepton_ir.frontends.keras.layers.operations import (
    clip,
    expand_dims,
    get_item,
    reshape,
    squeeze,
    transpose,
)
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder
from lepton_ir.frontends.keras.table import layer
from lepton_ir.ir import Value

_FUNCTIONS = {
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.divide": "Divide",
    "math.truediv": "Divide",
    "math.pow": "Power",
    "math.maximum": "Maximum",
    "math.minimum": "Minimum",
    "math.sqrt": "Sqrt",
    "math.rsqrt": "Rsqrt",
    "math.exp": "Exp",
    "math.log": "Log",
    "math.abs": "Abs",
    "math.square": "Square",
    "math.sigmoid": "Sigmoid",
    "math.tanh": "Tanh",
    "math.negative": "Negative",
    "math.sin": "Sin",
    "math.cos": "Cos",
    "nn.relu": "Relu",
    "nn.relu6": "Relu6",
    "nn.sigmoid": "Sigmoid",
    "nn.softmax": "Softmax",
    "nn.silu": "Silu",
    "nn.swish": "Silu",
    "nn.gelu": "Gelu",
    "nn.leaky_relu": "LeakyRelu",
    "nn.elu": "Elu",
    "nn.selu": "Selu",
    "nn.softplus": "Softplus",
    "cast": "Cast",
    "identity": "Identity",
    "stop_gradient": "StopGradient",
    "linalg.matmul": "Matmul",
}
_OPERATORS = {
    "__add__": "Add",
    "__radd__": "Add",
    "__sub__": "Subtract",
    "__mul__": "Multiply",
    "__rmul__": "Multiply",
    "__truediv__": "Divide",
    "__pow__": "Power",
    "__neg__": "Negative",
    "__matmul__": "Matmul",
    "__gt__": "Greater",
    "__ge__": "GreaterEqual",
    "__lt__": "Less",
    "__le__": "LessEqual",
}
_REDUCTIONS = ("mean", "sum", "max", "min", "prod")


@layer("TFOpLambda", "TensorFlowOpLayer")
def tf_function(b: KerasBuilder, me: Context, x: Any, *more: Any, **kwargs: Any) -> Any:
    """Operators and functions of TensorFlow in a functional model of Keras 2."""
    function = str(me.get("function", me.layer.class_name))
    kwargs.pop("name", None)
    others = [*more, *(kwargs.pop(k) for k in ("y", "b") if k in kwargs)]
    reduction = function.removeprefix("math.reduce_")
    if reduction in _REDUCTIONS:
        names = {"axis": kwargs.get("axis"), "keepdims": bool(kwargs.get("keepdims"))}
        return table.OPERATIONS[reduction.capitalize()](b, x, **names)
    name = _FUNCTIONS.get(function) or _OPERATORS.get(function.removeprefix("__operators__."))
    if function in ("concat", "stack"):
        name = "Concatenate" if function == "concat" else "Stack"
        return table.OPERATIONS[name](b, x, axis=kwargs.get("axis", 0))
    if function == "reshape":
        return reshape(b, x, kwargs.get("shape", more[0] if more else None))
    if function in ("transpose", "compat.v1.transpose"):
        return transpose(b, x, kwargs.get("perm"))
    if function == "expand_dims":
        return expand_dims(b, x, kwargs.get("axis", -1))
    if function in ("squeeze", "compat.v1.squeeze"):
        return squeeze(b, x, kwargs.get("axis"))
    if function == "clip_by_value":
        low, high = (kwargs.get(k) for k in ("clip_value_min", "clip_value_max"))
        return clip(b, x, low, high)
    if name is None:
        raise UnsupportedError(f"TensorFlow function {shorten(function)}", code="keras-op")
    if name == "Cast":
        kwargs = {"dtype": kwargs.get("dtype", more[0] if more else None)}
        others = []
    if name == "LeakyRelu" and "alpha" in kwargs:
        kwargs["negative_slope"] = kwargs.pop("alpha")
    return table.OPERATIONS[name](b, x, *others, **kwargs)


@layer("SlicingOpLambda")
def slicing(b: KerasBuilder, me: Context, x: Value, slice_spec: Any = None, **_: Any) -> Any:
    spec = slice_spec if isinstance(slice_spec, list) else [slice_spec]
    return get_item(b, x, [_slice_of(s) for s in spec])


def _slice_of(item: Any) -> Any:
    if isinstance(item, dict):
        if item.get("value") == "Ellipsis" or item.get("class_name") == "__ellipsis__":
            return Ellipsis
        return slice(item.get("start"), item.get("stop"), item.get("step"))
    return item
