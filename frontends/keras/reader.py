"""Keras in: `load` makes a module of a ``.keras``, ``.h5`` or ``.hdf5`` file."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

from lepton_ir import dims
from lepton_ir.builder import create
from lepton_ir.diagnostics import (
    InvalidModelError,
    LeptonError,
    Location,
    UnsupportedError,
    shorten,
)
from lepton_ir.frontends.keras import table
from lepton_ir.frontends.keras.config import MODELS, Layer, Model, Ref, expect, parse_model
from lepton_ir.frontends.keras.files import WeightFile, open_archive, open_h5
from lepton_ir.frontends.keras.lowering import Context, KerasBuilder, dtype_named
from lepton_ir.frontends.keras.weights import FileWeights, PathWeights, Weights
from lepton_ir.frontends.sized import unique_names
from lepton_ir.ir import Module, Value
from lepton_ir.pauses import collector_paused
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_ir.dims import Dim

MAX_NESTING = 50

_MALFORMED = (TypeError, ValueError, AssertionError, AttributeError)


def load(
    source: str | os.PathLike[str] | bytes, *, custom_layers: Mapping[str, Any] | None = None
) -> Module:
    """Read a Keras model from its configuration. Weights stay in the file until used.

    Args:
        source: a path.
        custom_layers: what layers of the user's own classes mean: class name to a function of the
            builder, the layer and its operands.

    Raises:
        InvalidModelError: the file is malformed or contradicts itself.
        UnsupportedError: a layer has no row, or is one of the user's own.
        LeptonError: h5py is not installed.
    """
    if isinstance(source, bytes):
        raise UnsupportedError("Keras models are read from a file", code="keras-file")
    path = os.fspath(source)
    try:
        config, file = open_archive(path) if zipfile.is_zipfile(path) else open_h5(path)
        with collector_paused():
            module = _Reader(config, file, zipfile.is_zipfile(path), custom_layers or {}).read()
    except LeptonError as error:
        shown = shorten(path, 200)
        error.where = f"{shown}: {error.where}" if error.where else shown
        raise
    module.meta["source_path"] = os.path.abspath(path)
    return module


class _Reader:
    def __init__(
        self, config: Any, file: WeightFile, archive: bool, custom: Mapping[str, Any]
    ) -> None:
        self.model = parse_model(config)
        self.weights: Weights = PathWeights(file, "") if archive else FileWeights(file)
        self.custom = custom
        name = config.get("config", {}).get("name", "model") if isinstance(config, dict) else "m"
        self.module = Module(str(name))
        self.module.meta["producer"] = "keras"
        self.function = self.module.add_function("main")
        self.b = KerasBuilder(self.function.block)

    def read(self) -> Module:
        _require_rows(self.model, self.custom)
        inputs = self._inputs()
        found = _ModelCall(self, self.model, self.weights, 0).run(inputs)
        names, values = self._results(found)
        self.function.output_names = names
        self.function.block.append(create("return", values))
        return self.module

    # -- inputs and outputs ------------------------------------------------------------------------

    def _inputs(self) -> list[Value]:
        if self.model.sequential:
            first = self.model.layers[0] if self.model.layers else None
            if first is None:
                raise InvalidModelError("a model without layers", code="keras-config")
            return [self._input(first)]
        by_name = {x.name: x for x in self.model.layers}
        return [self._input(self._layer(by_name, ref)) for ref in self.model.inputs]

    def _layer(self, by_name: dict[str, Layer], ref: Ref) -> Layer:
        layer = by_name.get(ref.layer)
        if layer is None:
            raise InvalidModelError(f"no layer {shorten(ref.layer)}", code="keras-config")
        return layer

    def _input(self, layer: Layer) -> Value:
        config = layer.config
        if config.get("sparse") or config.get("ragged"):
            raise UnsupportedError("a sparse or ragged input", code="keras-input")
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if shape is None and layer.class_name in MODELS:
            inner = parse_model({"class_name": layer.class_name, "config": config})
            if inner.layers:
                return self._input(inner.layers[0])
        if shape is None:
            built = config.get("build_config")
            shape = built.get("input_shape") if isinstance(built, dict) else None
        shape = expect(shape, list, f"the shape of input {shorten(layer.name)}")
        dtype = config.get("dtype", "float32")
        if layer.class_name != "InputLayer":
            dtype = "float32" if layer.class_name != "Embedding" else "int32"
        sizes = [self._size(d, i, layer.name) for i, d in enumerate(shape)]
        return self.function.block.add_arg(TensorType(dtype_named(dtype), sizes), layer.name)

    def _size(self, size: Any, axis: int, name: str) -> Dim:
        if size is None:
            symbol = "batch" if axis == 0 else f"{name}_{axis}"
            self.function.used_symbols.add(symbol)
            return dims.sym(symbol)
        if not isinstance(size, int) or size < 0:
            raise InvalidModelError(f"a size of {size!r:.40}", code="keras-config")
        return int(size)

    def _results(self, found: Any) -> tuple[list[str], list[Value]]:
        flat = flatten(found)
        outputs = [r.layer for r in flatten(self.model.outputs, Ref)]
        if len(outputs) != len(flat):
            last = self.model.layers[-1].name
            outputs = [last] * len(flat)
        taken = {str(v.name) for v in self.function.inputs}
        return unique_names(outputs, taken, "_"), flat

    # -- layers ------------------------------------------------------------------------------------

    def build(
        self, layer: Layer, weights: Weights, args: list[Any], kwargs: dict[str, Any], depth: int
    ) -> Any:
        """Build one call of a layer; return its result or results."""
        self.b.loc = Location(layer.name)
        try:
            if layer.class_name in MODELS and layer.class_name not in self.custom:
                inner = parse_model({"class_name": layer.class_name, "config": layer.config})
                return _ModelCall(self, inner, weights, depth + 1).run(flatten(args))
            if layer.is_operation:
                return self._operation(layer, args, kwargs)
            context = Context(self.b, layer, weights, self)
            return context.call(args, kwargs)
        except LeptonError as error:
            if not error.where:
                error.where = describe(layer)
            raise
        except (LookupError, ArithmeticError, *_MALFORMED) as error:
            text = shorten(str(error) or type(error).__name__)
            raise InvalidModelError(
                f"its configuration does not fit: {text}", code="keras-layer", where=describe(layer)
            ) from error

    def _operation(self, layer: Layer, args: list[Any], kwargs: dict[str, Any]) -> Any:
        row = table.OPERATIONS[layer.class_name]
        config = {
            k: v
            for k, v in layer.config.items()
            if k not in ("name", "build_config") and (k != "dtype" or v is not None)
        }
        return row(self.b, *args, **{**config, **kwargs})


class _ModelCall:
    """One call of a model: its layers' calls in the order in which their operands are ready."""

    def __init__(self, reader: _Reader, model: Model, weights: Weights, depth: int) -> None:
        if depth > MAX_NESTING:
            raise UnsupportedError("models are nested too deeply", code="keras-model")
        self.reader = reader
        self.model = model
        self.weights = weights.of_model(model.layers)
        self.depth = depth
        self.found: dict[tuple[str, int], Any] = {}

    def run(self, inputs: list[Value]) -> Any:
        """Return the model's outputs."""
        if self.model.sequential:
            return self._sequential(inputs)
        if len(inputs) != len(self.model.inputs):
            text = f"a model of {len(self.model.inputs)} inputs is given {len(inputs)}"
            raise InvalidModelError(text, code="keras-config")
        for ref, value in zip(self.model.inputs, inputs, strict=True):
            self.found[(ref.layer, ref.node)] = value
        self.by_name = {x.name: x for x in self.model.layers}
        wanted = flatten(self.model.outputs, Ref)
        for ref in wanted:
            self._need(ref)
        found = [self._value(r) for r in wanted]
        return found[0] if isinstance(self.model.outputs, Ref) or len(found) == 1 else found

    def _sequential(self, inputs: list[Value]) -> Any:
        value: Any = inputs[0]
        for layer in self.model.layers:
            if layer.class_name == "InputLayer":
                continue
            weights = self._weights(layer)
            value = self.reader.build(layer, weights, [value], {}, self.depth)
        return value

    def _weights(self, layer: Layer) -> Weights:
        return self.weights.get(layer.name) or Weights()

    def _need(self, ref: Ref) -> None:
        """Build the call that makes a tensor, and what it needs, without recursion."""
        stack = [(ref.layer, ref.node)]
        waiting: set[tuple[str, int]] = set()
        while stack:
            key = stack[-1]
            if key in self.found:
                stack.pop()
                continue
            layer = self.by_name.get(key[0])
            if layer is None or not 0 <= key[1] < len(layer.calls):
                raise InvalidModelError(
                    f"no call {key[1]} of layer {shorten(key[0])}", code="keras-config"
                )
            call = layer.calls[key[1]]
            open_ = [
                (r.layer, r.node)
                for r in flatten([call.args, call.kwargs], Ref)
                if (r.layer, r.node) not in self.found
            ]
            if open_:
                if key in waiting:
                    raise InvalidModelError(
                        f"layer {shorten(key[0])} reads its own result", code="keras-config"
                    )
                waiting.add(key)
                stack.extend(open_)
                continue
            args = [self._bound(a) for a in call.args]
            kwargs = {k: self._bound(v) for k, v in call.kwargs.items()}
            weights = self._weights(layer)
            self.found[key] = self.reader.build(layer, weights, args, kwargs, self.depth)
            stack.pop()

    def _bound(self, item: Any) -> Any:
        if isinstance(item, Ref):
            return self._value(item)
        if isinstance(item, list):
            return [self._bound(i) for i in item]
        if isinstance(item, dict):
            return {k: self._bound(v) for k, v in item.items()}
        return item

    def _value(self, ref: Ref) -> Any:
        found = flatten(self.found[(ref.layer, ref.node)])
        if not 0 <= ref.index < len(found):
            text = f"layer {shorten(ref.layer)} has no result {ref.index}"
            raise InvalidModelError(text, code="keras-config")
        return found[ref.index]


def flatten(item: Any, kind: type = Value) -> list[Any]:
    """Return all items of a kind in nested lists and dictionaries, in order."""
    found: list[Any] = []
    stack = [item]
    while stack:
        top = stack.pop()
        if isinstance(top, kind):
            found.append(top)
        elif isinstance(top, dict):
            stack.extend(reversed(list(top.values())))
        elif isinstance(top, (list, tuple)):
            stack.extend(reversed(top))
    return found


def describe(layer: Layer) -> str:
    """Return how messages name a layer."""
    return f'layer "{shorten(layer.name)}" ({shorten(layer.class_name)})'


_NEVER = {
    "Lambda": "holds Python code, which is never executed",
    "TFSMLayer": "calls a SavedModel of its own",
    "TorchModuleWrapper": "holds a pickled module, which is never loaded",
    "FlaxLayer": "holds pickled code, which is never loaded",
    "JaxLayer": "holds pickled code, which is never loaded",
}


def _require_rows(model: Model, custom: Mapping[str, Any]) -> None:
    """Refuse layers without a row, all at once."""
    missing = list(_missing(model, custom, 0))
    if not missing:
        return
    first = missing[0]
    why = _NEVER.get(first.class_name, "is not supported")
    notes = [f"{describe(x)} {_NEVER.get(x.class_name, 'is not supported')}" for x in missing[1:8]]
    raise UnsupportedError(
        f"{shorten(first.class_name)} {why}",
        code="keras-layer",
        where=describe(first),
        hint=f"--custom-layer {shorten(first.class_name)}=module:function says what it means",
        notes=tuple(notes),
    )


def _missing(model: Model, custom: Mapping[str, Any], depth: int) -> list[Layer]:
    rows = table.load()
    found: list[Layer] = []
    if depth > MAX_NESTING:
        raise UnsupportedError("models are nested too deeply", code="keras-model")
    for layer in model.layers:
        name = layer.class_name
        if name in custom:
            continue
        if name in MODELS:
            inner = parse_model({"class_name": name, "config": layer.config})
            found += _missing(inner, custom, depth + 1)
        elif layer.is_operation:
            if name not in table.OPERATIONS:
                found.append(layer)
        elif name not in rows or name in _NEVER or not _is_own(layer):
            found.append(layer)
    return found


def _is_own(layer: Layer) -> bool:
    """Whether a class is Keras's, and not the user's under one of its names."""
    return not layer.module or layer.module.split(".")[0] in ("keras", "tf_keras", "tensorflow")
