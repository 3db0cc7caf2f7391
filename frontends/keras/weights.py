"""Which variable of the file belongs to which layer.

Keras 3's files name a layer's variables by a path of attributes, where the layers of a model are
named by their *class*, counted (``layers/dense_1/vars/0``), and not by their own name; newer ones
note that name beside it. Files in HDF5 alone have a list of all variables for each layer of the
outermost model, trained ones first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import InvalidModelError, shorten
from lepton_ir.frontends.keras import table
from lepton_ir.frontends.keras.config import MODELS, Layer, parse_layer, parse_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_ir.frontends.keras.files import WeightFile
    from lepton_ir.tensors import Tensor

MAX_NESTING = 50


def snake_case(name: str) -> str:
    """Return a class name as Keras counts it.

    >>> snake_case("BatchNormalization"), snake_case("Conv2DTranspose"), snake_case("PReLU")
    ('batch_normalization', 'conv2d_transpose', 'p_re_lu')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def variables(layer: Layer) -> tuple[str, ...]:
    """Return the names of a layer's own variables, in the order in which it creates them."""
    row = table.load().get(layer.class_name)
    if row is None:
        return ()
    config = layer.config
    found = []
    for name in row.weights:
        flag = table.FLAGS.get(name.rstrip("?")) if name.endswith("?") else None
        if flag is None or config.get(flag, True):
            found.append(name.rstrip("?"))
    return tuple(found)


def children(layer: Layer) -> dict[str, Layer]:
    """Return the layers inside a layer by the attribute that holds them."""
    row = table.load().get(layer.class_name)
    if row is None:
        return {}
    found: dict[str, Layer] = {}
    for name in row.children:
        inner = layer.config.get(name) or layer.config.get(_ALIASES.get(name, ""))
        if isinstance(inner, dict) and "class_name" in inner:
            found[name] = parse_layer(inner)
        elif isinstance(inner, list):
            counts: dict[str, int] = {}
            for entry in inner:
                part = parse_layer(entry)
                found[f"{name}/{counted(part, counts)}"] = part
        else:
            found[name] = Layer(_PARTS.get(name, "Projection"), "", name, layer.config)
    return found


def counted(layer: Layer, counts: dict[str, int]) -> str:
    """Return the name of a layer among its siblings: its class, counted."""
    kind = snake_case(layer.class_name)
    count = counts.get(kind, 0)
    counts[kind] = count + 1
    return f"{kind}_{count}" if count else kind


_PARTS = {"cell": "RecurrentCell"}
"""Classes of inner layers that the configuration does not spell."""

_ALIASES = {"forward_layer": "layer", "backward_layer": "layer"}
"""Other names of inner layers in configurations."""


class Weights:
    """The variables of one layer: its own, and those of the layers inside. Here there are none."""

    def own(self, layer: Layer, name: str) -> Tensor | None:
        """Return a variable of the layer itself; ``None`` where the file has none."""
        return None

    def child(self, layer: Layer, name: str) -> Weights:
        """Return the variables of an inner layer."""
        return self

    def of_model(self, layers: list[Layer]) -> dict[str, Weights]:
        """Return the variables of the layers of an inner model by their names."""
        return {}


class PathWeights(Weights):
    """Variables by path, as ``.keras`` files have them."""

    def __init__(self, file: WeightFile, path: str) -> None:
        self.file = file
        self.path = path

    def own(self, layer: Layer, name: str) -> Tensor | None:
        names = variables(layer)
        if name not in names:
            return None
        return self.file.tensor(f"{self.path}/vars/{names.index(name)}")

    def child(self, layer: Layer, name: str) -> Weights:
        for spelled in (name, f"_{name}"):
            if self.file.find(f"{self.path}/{spelled}") is not None:
                return PathWeights(self.file, f"{self.path}/{spelled}")
        return PathWeights(self.file, f"{self.path}/{name}")

    def of_model(self, layers: list[Layer]) -> dict[str, Weights]:
        base = self.path
        for name in ("layers", "_layer_checkpoint_dependencies"):
            if self.file.find(f"{self.path}/{name}") is not None:
                base = f"{self.path}/{name}"
                break
        noted = self._noted(base)
        counts: dict[str, int] = {}
        found: dict[str, Weights] = {}
        for layer in layers:
            if layer.is_operation:
                continue
            name = noted.get(layer.name, counted(layer, counts))
            found[layer.name] = PathWeights(self.file, f"{base}/{name}")
        return found

    def _noted(self, base: str) -> dict[str, str]:
        """Return paths by the names of layers, where the file notes them."""
        found = {}
        for group in self.file.names(base):
            name = self.file.attribute(f"{base}/{group}/vars", "name")
            if isinstance(name, bytes):
                name = name.decode(errors="replace")
            if isinstance(name, str):
                found[name] = group
        return found


class ListedWeights(Weights):
    """Variables that were taken from the list of an outermost layer, in order."""

    def __init__(self, tensors: dict[tuple[str, ...], Tensor], path: tuple[str, ...] = ()) -> None:
        self.tensors = tensors
        self.path = path

    def own(self, layer: Layer, name: str) -> Tensor | None:
        return self.tensors.get((*self.path, name))

    def child(self, layer: Layer, name: str) -> Weights:
        return ListedWeights(self.tensors, (*self.path, name))

    def of_model(self, layers: list[Layer]) -> dict[str, Weights]:
        return {x.name: ListedWeights(self.tensors, (*self.path, x.name)) for x in layers}


class FileWeights(Weights):
    """The outermost model of an ``.h5`` file."""

    def __init__(self, file: WeightFile) -> None:
        self.file = file

    def of_model(self, layers: list[Layer]) -> dict[str, Weights]:
        root = "model_weights" if self.file.find("model_weights") is not None else ""
        return {x.name: self._layer(x, f"{root}/{x.name}") for x in layers if not x.is_operation}

    def _layer(self, layer: Layer, path: str) -> Weights:
        names = self.file.attribute(path, "weight_names")
        listed = [] if names is None else [_text(n) for n in names]
        slots = list(_slots(layer))
        order = [p for p, frozen in slots if not frozen] + [p for p, frozen in slots if frozen]
        if listed and len(listed) != len(order):
            raise InvalidModelError(
                f"the layer has {len(order)} variables, the file lists {len(listed)}",
                code="keras-weight",
                where=f'layer "{shorten(layer.name)}" ({shorten(layer.class_name)})',
            )
        found: dict[tuple[str, ...], Tensor] = {}
        for place, name in zip(order, listed, strict=False):
            tensor = self.file.tensor(f"{path}/{name}")
            if tensor is None:
                raise InvalidModelError(f"no data for {shorten(name)}", code="keras-weight")
            found[place] = tensor
        return ListedWeights(found)


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


def _slots(
    layer: Layer, frozen: bool = False, depth: int = 0
) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the places of all variables of a layer, and whether each is not trained."""
    if depth > MAX_NESTING:
        raise InvalidModelError("layers are nested too deeply", code="keras-config")
    frozen = frozen or not layer.config.get("trainable", True)
    if layer.class_name in MODELS:
        for inner in parse_model({"class_name": layer.class_name, "config": layer.config}).layers:
            if not inner.is_operation:
                for place, still in _slots(inner, frozen, depth + 1):
                    yield (inner.name, *place), still
        return
    row = table.load().get(layer.class_name)
    for name in variables(layer):
        fixed = row is not None and name in row.frozen
        yield (name,), frozen or fixed
    for name, inner in children(layer).items():
        for place, still in _slots(inner, frozen, depth + 1):
            yield (name, *place), still
