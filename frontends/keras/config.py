"""Configurations of models, in the dialects of Keras 2 and 3: layers, and calls of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lepton_ir.diagnostics import InvalidModelError, UnsupportedError, shorten


@dataclass(frozen=True)
class Ref:
    """A tensor of the model: result ``index`` of call ``node`` of a layer."""

    layer: str
    node: int
    index: int


@dataclass
class Call:
    """One call of a layer; arguments hold ``Ref`` where they are tensors."""

    args: list[Any]
    kwargs: dict[str, Any]


@dataclass
class Layer:
    """A layer, or an operation, as configured.

    Attributes:
        class_name: the class.
        module: where it lives; ``keras.src.ops...`` for operations.
        name: unique in its model.
        config: the configuration.
        calls: in the model around it.
    """

    class_name: str
    module: str
    name: str
    config: dict[str, Any]
    calls: list[Call] = field(default_factory=list)

    @property
    def is_operation(self) -> bool:
        """Whether this is a node of ``keras.ops``, which has no variables.

        Files in HDF5 alone do not say so; only layers can be trained.
        """
        if self.module:
            return ".ops" in self.module
        from lepton_ir.frontends.keras import table

        table.load()
        layer = {"trainable", "batch_shape", "layers"} & self.config.keys()
        return not layer and self.class_name in table.OPERATIONS


@dataclass
class Model:
    """A model: layers in the order of the file, and where it begins and ends."""

    layers: list[Layer]
    inputs: list[Ref]
    outputs: Any
    sequential: bool


def expect(value: Any, kind: Any, what: str) -> Any:
    """Return ``value`` if it is a ``kind``.

    Raises:
        InvalidModelError: it is something else.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidModelError(f"{what} is {value!r:.60}", code="keras-config")
    return value


def parse_layer(entry: Any) -> Layer:
    """Return a layer of a configuration, without its calls."""
    entry = expect(entry, dict, "a layer")
    config = expect(entry.get("config", {}), dict, "a layer's config")
    class_name = expect(entry.get("class_name"), str, "class_name")
    name = entry.get("name") or config.get("name") or class_name
    module = entry.get("module") or ""
    registered = entry.get("registered_name")
    if isinstance(registered, str) and ">" in registered and module.startswith("keras"):
        module = ""
    if "build_config" in entry:
        config = {**config, "build_config": entry["build_config"]}
    return Layer(class_name, str(module), expect(name, str, "name"), config)


MODELS = ("Functional", "Sequential", "Model")


def parse_model(entry: Any) -> Model:
    """Return a model of a configuration.

    Raises:
        InvalidModelError: the configuration is malformed.
        UnsupportedError: a subclassed model, whose code is not in the file.
    """
    entry = expect(entry, dict, "the model")
    kind = entry.get("class_name")
    config = entry.get("config")
    if kind == "Sequential" and isinstance(config, list):  # Keras 2.0
        config = {"layers": config}
    config = expect(config, dict, "the model's config")
    if kind not in MODELS or "layers" not in config:
        raise UnsupportedError(
            f"{shorten(str(kind))} is a model of its own class, whose code is not in the file",
            code="keras-model",
            hint="export it as a SavedModel (model.export), or rebuild it as a functional model",
        )
    entries = expect(config["layers"], list, "layers")
    layers = [parse_layer(e) for e in entries]
    names = [x.name for x in layers]
    if len(set(names)) != len(names):
        raise InvalidModelError("two layers have one name", code="keras-config")
    if kind == "Sequential":
        return Model(layers, [], None, True)
    for layer, raw in zip(layers, entries, strict=True):
        nodes = expect(raw.get("inbound_nodes", []), list, "inbound_nodes")
        layer.calls = [_call(n) for n in nodes]
    inputs = _refs(config.get("input_layers"))
    return Model(layers, inputs, _structure(config.get("output_layers")), False)


def _is_ref(item: Any) -> bool:
    """Whether a list is Keras 2's way to name a tensor."""
    return (
        isinstance(item, list)
        and len(item) in (3, 4)
        and isinstance(item[0], str)
        and all(isinstance(i, int) and not isinstance(i, bool) for i in item[1:3])
    )


def _refs(item: Any) -> list[Ref]:
    found = _structure(item)
    flat: list[Ref] = []
    stack = [found]
    while stack:
        top = stack.pop()
        if isinstance(top, Ref):
            flat.append(top)
        elif isinstance(top, dict):
            stack.extend(reversed(list(top.values())))
        elif isinstance(top, list):
            stack.extend(reversed(top))
    return flat


def _structure(item: Any, depth: int = 0) -> Any:
    """Return outputs with ``Ref`` in place of names."""
    if depth > 50:
        raise InvalidModelError("outputs are nested too deeply", code="keras-config")
    if _is_ref(item):
        return Ref(*item[:3])
    if isinstance(item, list):
        return [_structure(i, depth + 1) for i in item]
    if isinstance(item, dict):
        return {k: _structure(v, depth + 1) for k, v in item.items()}
    raise InvalidModelError(f"no tensor: {item!r:.60}", code="keras-config")


def _call(node: Any) -> Call:
    if isinstance(node, dict):
        args = expect(node.get("args", []), list, "args")
        named = expect(node.get("kwargs", {}), dict, "kwargs")
        return Call([_argument(a) for a in args], {k: _argument(v) for k, v in named.items()})
    node = expect(node, list, "a call")
    if _is_ref(node):  # one operand, not wrapped
        node = [node]
    kwargs: dict[str, Any] = {}
    operands: list[Any] = []
    for item in node:
        if not isinstance(item, list) or len(item) < 3:
            raise InvalidModelError(f"a call has {item!r:.60}", code="keras-config")
        if item[0] == "_CONSTANT_VALUE":
            operands.append(item[2])
        else:
            operands.append(Ref(*item[:3]))
        if len(item) > 3 and isinstance(item[3], dict):
            kwargs.update({k: _old_argument(v) for k, v in item[3].items()})
    return Call(operands if len(operands) == 1 else [operands], kwargs)


def _old_argument(item: Any) -> Any:
    if _is_ref(item):
        return Ref(*item[:3])
    if isinstance(item, list):
        if len(item) >= 3 and item[0] == "_CONSTANT_VALUE":
            return item[2]
        return [_old_argument(i) for i in item]
    if isinstance(item, dict) and item.get("class_name") == "__tuple__":
        return [_old_argument(i) for i in item.get("items", [])]
    return item


def _argument(item: Any, depth: int = 0) -> Any:
    """Return an argument of Keras 3's dialect."""
    if depth > 50:
        raise InvalidModelError("arguments are nested too deeply", code="keras-config")
    if isinstance(item, list):
        return [_argument(i, depth + 1) for i in item]
    if not isinstance(item, dict):
        return item
    kind, config = item.get("class_name"), item.get("config")
    if kind == "__keras_tensor__" and isinstance(config, dict):
        history = expect(config.get("keras_history"), list, "keras_history")
        if len(history) != 3:
            raise InvalidModelError("keras_history has 3 parts", code="keras-config")
        return Ref(*history)
    if kind == "__tuple__":
        return [_argument(i, depth + 1) for i in config or item.get("items") or []]
    if kind == "__slice__" and isinstance(config, dict):
        ends = (config.get(k) for k in ("start", "stop", "step"))
        return slice(*(_argument(e, depth + 1) for e in ends))
    if kind == "__ellipsis__":
        return Ellipsis
    if kind == "__numpy__" and isinstance(config, dict):
        import numpy as np

        return np.asarray(config.get("value"), config.get("dtype"))
    if kind == "__tensor__" and isinstance(config, dict):
        import numpy as np

        return np.asarray(config.get("value"), config.get("dtype"))
    if kind is not None and str(kind).startswith("__"):
        raise UnsupportedError(f"an argument of kind {shorten(str(kind))}", code="keras-config")
    return {k: _argument(v, depth + 1) for k, v in item.items()}
