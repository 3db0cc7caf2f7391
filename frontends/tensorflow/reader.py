"""TensorFlow in: `load` makes a module of a SavedModel or of a frozen graph."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lepton_ir import dims
from lepton_ir.builder import create
from lepton_ir.diagnostics import InvalidModelError, LeptonError, UnsupportedError, shorten
from lepton_ir.frontends.sized import unique_names
from lepton_ir.frontends.tensorflow.files import Source, read
from lepton_ir.frontends.tensorflow.functions import Body, Library, Ref
from lepton_ir.frontends.tensorflow.graph import GraphReader, Scope, Shared, described
from lepton_ir.frontends.tensorflow.lowering import TfBuilder
from lepton_ir.frontends.tensorflow.needs import require_rows, require_size
from lepton_ir.frontends.tensorflow.nodes import STRING, dtype_of, shape_of
from lepton_ir.frontends.tensorflow.ranks import ranked
from lepton_ir.frontends.tensorflow.states import written
from lepton_ir.frontends.tensorflow.variables import Variables, keys_of
from lepton_ir.frontends.tensorflow.weights import stored_tensor
from lepton_ir.ir import Module, Value
from lepton_ir.pauses import collector_paused
from lepton_ir.types import TensorType

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.nodes import Node

DEFAULT_SIGNATURE = "serving_default"
_INIT = "__saved_model_init_op"

_INPUTS = frozenset(("Placeholder", "PlaceholderV2"))
_SILENT = frozenset(("NoOp", "Assert", "Const", "VarHandleOp", "Print", "SaveV2", *_INPUTS))
"""Operators that are no outputs though nobody reads them."""

_FLOW = frozenset(("Exit", "Switch", "Merge", "Enter", "NextIteration", "LoopCond"))
_FLOW_ALL = _FLOW | {f"Ref{n}" for n in _FLOW}


def load(
    source: str | os.PathLike[str] | bytes, *, signature: str = "", keep_overridable: bool = False
) -> Module:
    """Read a SavedModel folder or a frozen graph. Variables stay in their files until used.

    Variables that a signature writes become further results, ``NAME.out``.

    Args:
        source: a path.
        signature: which of a SavedModel; by default ``serving_default``, or the only one.
        keep_overridable: make variables that are written inputs with a default, so that a caller
            can carry them from run to run; otherwise each run begins with what the file holds.

    Raises:
        InvalidModelError: the file is malformed or contradicts itself.
        UnsupportedError: an operator has no row, or the model keeps a state.
    """
    if isinstance(source, bytes):
        raise UnsupportedError("models of TensorFlow are read from a path", code="tf-file")
    path = os.fspath(source)
    try:
        with collector_paused():
            module = _ModelReader(read(path), signature, keep_overridable).read()
    except LeptonError as error:
        shown = shorten(path, 200)
        error.where = f"{shown}: {error.where}" if error.where else shown
        raise
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        text = shorten(str(error) or type(error).__name__)
        raise InvalidModelError(
            f"the model contradicts itself: {text}", code="tf-model", where=shorten(path, 200)
        ) from error
    module.meta["source_path"] = os.path.abspath(path)
    return module


class _ModelReader:
    def __init__(self, source: Source, signature: str, keep: bool) -> None:
        self.source = source
        self.signature = signature
        self.keep = keep
        self.library = Library(source.graph.library)
        self.body = Body(source.graph.node, self.library)
        for node in self.body.nodes.values() if source.places else ():
            tensor = stored_tensor(node, source.places)
            if tensor is not None:
                node.keep("value", tensor)
        self.module = Module("tensorflow")
        self.module.meta["producer"] = source.producer
        self.function = self.module.add_function("main")
        self.names: list[str] = []
        self.values: list[Value] = []

    def read(self) -> Module:
        if self.source.meta is None and self.signature:
            raise UnsupportedError("a frozen graph has no signatures", code="tf-signature")
        inputs, outputs = self._frozen() if self.source.meta is None else self._signature()
        bound = {ref.node for _, ref, _ in inputs}
        require_size(self.body)
        require_rows(self.body, [r for _, r in outputs], bound)
        shared = Shared(self.library, self._variables(), self.function)
        scope = Scope(self.body, TfBuilder(self.function.block))
        single = sum(1 for *_, t in inputs if t.shape and t.shape[0] is None) == 1
        for name, ref, type_ in inputs:
            shared.taken.add(name)
            value = self.function.block.add_arg(self._symbolic(type_, name, single), name)
            scope.slots[ref.node] = [value]
        found = GraphReader(shared).evaluate(scope, [r for _, r in outputs])
        for (name, ref), slot in zip(outputs, found, strict=True):
            self._output(name, slot)
            if self.source.meta is None:
                for port, more in enumerate(scope.find(ref.node) or ()):
                    if port:
                        self._output(f"{name}:{port}", more)
        for name, value in written(shared, self.keep).items():
            self._output(f"{name}.out", value)
        self.function.output_names = unique_names(
            self.names, {v.name or "" for v in self.function.inputs}
        )
        self.function.block.append(create("return", self.values))
        return self.module

    def _variables(self) -> Variables:
        bundle = self.source.bundle()
        if bundle is None or self.source.meta is None:
            return Variables()
        return Variables(bundle, keys_of(self.source.meta, self.body, self.library, bundle))

    def _output(self, name: str, slot: Any) -> None:
        if not isinstance(slot, Value):
            raise UnsupportedError(
                f"output {shorten(name)} is {described(slot)}, not a tensor", code="tf-output"
            )
        self.names.append(name)
        self.values.append(slot)

    def _symbolic(self, type_: TensorType, name: str, single: bool) -> TensorType:
        """Return a type whose unknown sizes have names."""
        if type_.dtype is not None and type_.dtype.kind == "complex":
            raise UnsupportedError(f"input {shorten(name)} is complex", code="tf-input")
        if type_.shape is None:
            return type_
        shape: list[Any] = []
        for axis, size in enumerate(type_.shape):
            if size is None:
                symbol = "batch" if axis == 0 and single else f"{_word(name)}_{axis}"
                self.function.used_symbols.add(symbol)
                size = dims.sym(symbol)
            shape.append(size)
        return type_.with_shape(shape)

    # -- frozen graphs -----------------------------------------------------------------------------

    def _frozen(self) -> tuple[list[tuple[str, Ref, TensorType]], list[tuple[str, Ref]]]:
        """Return inputs and outputs: placeholders, and nodes that nobody reads."""
        read = {r.node for n in self.body.nodes.values() for r in self.body.operands(n)}
        inputs = [
            (n.name, Ref(n.name, 0), ranked(_placeholder_type(n), n.name, self.body))
            for n in self.body.nodes.values()
            if n.op in _INPUTS and n.name in read
        ]
        ends = [n for n in self.body.nodes.values() if n.name not in read and n.op not in _SILENT]
        waited = {i[1:] for n in self.body.nodes.values() for i in n.message.input if i[:1] == "^"}
        ends = [n for n in ends if n.name not in waited] or ends
        ends = [n for n in ends if n.op not in _FLOW_ALL] or [n for n in ends if n.op == "Exit"]
        if not ends:
            raise InvalidModelError("the graph has no outputs", code="tf-output")
        return inputs, [(n.name, Ref(n.name, 0)) for n in ends]

    # -- signatures --------------------------------------------------------------------------------

    def _chosen(self) -> Any:
        signatures = self.source.meta.signature_def
        known = [n for n in sorted(signatures) if n != _INIT]
        name = self.signature or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in known else "")
        if not name and len(known) == 1:
            (name,) = known
        if name not in known:
            listed = ", ".join(map(shorten, known[:20])) or "none"
            what = f"no signature {shorten(name)}" if name else "which signature is not said"
            raise UnsupportedError(f"{what}; there are: {listed}", code="tf-signature")
        return signatures[name]

    def _signature(self) -> tuple[list[tuple[str, Ref, TensorType]], list[tuple[str, Ref]]]:
        chosen = self._chosen()
        inputs = []
        for name, info in chosen.inputs.items():
            ref = self._ref(name, info)
            if ref.port:
                raise UnsupportedError(f"input {shorten(name)} is a second result", code="tf-input")
            inputs.append((name, ref, _info_type(name, info)))
        outputs = [(name, self._ref(name, info)) for name, info in chosen.outputs.items()]
        if not outputs:
            raise UnsupportedError("the signature has no outputs", code="tf-signature")
        if len({ref for _, ref, _ in inputs}) != len(inputs):
            raise UnsupportedError("two inputs are one tensor", code="tf-input")
        order = {n: i for i, n in enumerate(self.body.nodes)}
        inputs.sort(key=lambda i: order[i[1].node])
        outputs.sort(key=lambda o: (order[o[1].node], o[1].port, o[0]))
        return inputs, outputs

    def _ref(self, name: str, info: Any) -> Ref:
        if not info.name:
            raise UnsupportedError(f"{shorten(name)} is not a dense tensor", code="tf-signature")
        return self.body.ref(info.name)


def _info_type(name: str, info: Any) -> TensorType:
    if info.dtype == STRING:
        raise UnsupportedError(f"input {shorten(name)} holds strings", code="tf-input")
    dtype = dtype_of(info.dtype)
    if dtype is None:
        raise UnsupportedError(f"input {shorten(name)} is a handle", code="tf-input")
    return TensorType(dtype, shape_of(info.tensor_shape))


def _placeholder_type(node: Node) -> TensorType:
    if node.code("dtype") == STRING:
        raise UnsupportedError(f"input {shorten(node.name)} holds strings", code="tf-input")
    dtype = node.attr("dtype")
    if dtype is None:
        raise UnsupportedError(f"input {shorten(node.name)} is a handle", code="tf-input")
    return TensorType(dtype, node.attr("shape"))


def _word(name: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name) or "x"
