"""Definition of an operation: one decorated function is its signature, meaning and documentation.

The decorated function's body is the meaning in NumPy. The spec string names operands and results,
keyword-only parameters are attributes, the docstring's numbered constraints come back in messages::

    @op("gather(x, indices)", infer=infer_gather)
    def gather(x, indices, *, axis: Int = 0):
        \"\"\"Select slices along an axis (ONNX Gather-13).

        C1  -rank(x) <= axis < rank(x)
        \"\"\"
        return np.take(x, indices, axis)

Operands: ``x`` required, ``x?`` optional, ``xs*`` variadic (last only). Results are ``y`` unless
the spec says otherwise: ``"topk(x, k) -> values, indices"``, ``"dropout(x) -> y, mask?"``,
``"split(x) -> ys*"``. Graph-valued attributes are regions: ``regions=("then", "else")``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from lepton_ir.infer import InferContext

# Annotations of attribute parameters. ``X | None`` makes the attribute optional with no default.
Int = int
Float = float
Str = str
Bool = bool
Ints = tuple[int, ...]
Floats = tuple[float, ...]
Strs = tuple[str, ...]
Attr = Any  # Tensor, DType, Type or a foreign value

ATTR_KINDS = {
    "Int": "int",
    "Float": "float",
    "Str": "str",
    "Bool": "bool",
    "Ints": "ints",
    "Floats": "floats",
    "Strs": "strs",
    "DTypeAttr": "dtype",
    "TensorAttr": "tensor",
    "TypeAttr": "type",
    "Attr": "any",
}
DTypeAttr = Any
TensorAttr = Any
TypeAttr = Any

EFFECTS = ("random", "reads", "writes", "unknown")
TRAITS = frozenset(
    {
        *EFFECTS,
        "commutative",  # the first two operands may be swapped
        "elementwise",  # result shape is the broadcast of the operands' shapes
        "composite",  # has a decomposition; some backend likes it whole
        "terminator",  # ends a block
        "idempotent",  # f(f(x)) == f(x)
        "involution",  # f(f(x)) == x
        "view",  # reorders or relabels elements, computes nothing
    }
)


class Operand:
    """A formal operand or result."""

    __slots__ = ("name", "optional", "variadic")

    def __init__(self, name: str, optional: bool, variadic: bool) -> None:
        self.name = name
        self.optional = optional
        self.variadic = variadic

    def __repr__(self) -> str:
        return self.name + ("?" if self.optional else "*" if self.variadic else "")


class AttrSpec:
    """A formal attribute: its kind, and its default unless it is required."""

    __slots__ = ("default", "kind", "name", "optional", "required")

    def __init__(self, name: str, kind: str, default: Any, required: bool, optional: bool) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.required = required
        self.optional = optional

    def __repr__(self) -> str:
        return f"{self.name}: {self.kind}" + ("" if self.required else f" = {self.default!r}")


Infer = "Callable[[InferContext], Any]"


class OpDef:
    """Everything known about one operation; see the module docstring.

    Attributes:
        infer: maps operand types to result types (see :mod:`lepton_ir.infer`).
        content: optional; maps to the symbolic contents of a small integer result.
        decompose: optional; ``decompose(builder, op) -> list[Value]`` builds the same from smaller
            operations before ``op``; raises ``DecomposeError`` with a reason when it cannot.
        meaning: NumPy function ``(*operands, **attributes) -> array | tuple``; ``None`` for
            operations without a deterministic meaning.
    """

    __slots__ = (
        "_doc",
        "attrs",
        "content",
        "decompose",
        "effects",
        "infer",
        "max_operands",
        "max_results",
        "meaning",
        "min_operands",
        "min_results",
        "module",
        "name",
        "operand_index",
        "operands",
        "regions",
        "results",
        "traits",
    )

    def __init__(
        self,
        name: str,
        operands: tuple[Operand, ...],
        results: tuple[Operand, ...],
        *,
        attrs: dict[str, AttrSpec],
        traits: frozenset[str],
        meaning: Callable[..., Any] | None,
        infer: Callable[[InferContext], Any],
        content: Callable[[InferContext], Any] | None = None,
        decompose: Callable[..., Any] | None = None,
        regions: tuple[str, ...] = (),
        doc: str = "",
        module: str = "",
    ) -> None:
        self.name = name
        self.operands = operands
        self.results = results
        self.attrs = attrs
        self.traits = traits
        self.effects = next((e for e in EFFECTS if e in traits), "none")
        self.meaning = meaning
        self.infer = infer
        self.content = content
        self.decompose = decompose
        self.regions = regions
        self._doc = doc
        self.module = module
        self.operand_index = {o.name: i for i, o in enumerate(operands)}
        self.min_operands = sum(not (o.optional or o.variadic) for o in operands)
        self.max_operands = -1 if any(o.variadic for o in operands) else len(operands)
        self.min_results = sum(not (o.optional or o.variadic) for o in results)
        self.max_results = -1 if any(o.variadic for o in results) else len(results)

    @property
    def doc(self) -> str:
        """The documentation, without indentation."""
        import inspect

        return inspect.cleandoc(self._doc)

    @property
    def constraints(self) -> dict[str, str]:
        """The numbered constraints of the documentation, by number."""
        return dict(re.findall(r"^\s*(C\d+)\s+(.+)$", self.doc, re.MULTILINE))

    @property
    def pure(self) -> bool:
        """Whether the operation has no effects: it may be merged, moved and dropped."""
        return self.effects == "none" and "terminator" not in self.traits

    @property
    def foldable(self) -> bool:
        """Whether constant operands give a constant result."""
        return self.meaning is not None and self.pure

    def __repr__(self) -> str:
        return f"<op {self.signature()}>"

    def signature(self) -> str:
        """Return the spec string, such as ``topk(x, k) -> values, indices``."""
        head = f"{self.name}({', '.join(map(repr, self.operands))})"
        return f"{head} -> {', '.join(map(repr, self.results))}"

    def __call__(self, *operands: Any, **attrs: Any) -> Any:
        """Evaluate the meaning on arrays, with attribute defaults filled in."""
        if self.meaning is None:
            raise LeptonError(f"{self.name} has no deterministic meaning", code="no-meaning")
        return self.meaning(*operands, **attrs)


_REGISTRY: dict[str, OpDef] = {}


_defined_by: dict[str, set[str]] = {}
"""The names of operations by the module whose import has defined them."""


class _Loaded:
    """Which families have been imported; set before they are, since they look names up."""

    own = False
    plugins = False


def _load_own() -> dict[str, OpDef]:
    if not _Loaded.own:
        _Loaded.own = True
        from lepton_ir.ops import load_families

        load_families()
    return _REGISTRY


def load_all() -> dict[str, OpDef]:
    """Import every op family (builtin and plugged in) and return the whole table."""
    _load_own()
    if not _Loaded.plugins:
        _Loaded.plugins = True
        from lepton_ir.ops import load_plugins

        load_plugins()
    return _REGISTRY


def lookup(name: str) -> OpDef | None:
    """Return the definition of ``name``, or ``None`` for an opaque operation."""
    found = _REGISTRY.get(name)
    if found is None and not _Loaded.plugins:
        # Looking for plugins takes longer than everything else; they cannot redefine an operation.
        found = _load_own().get(name) or load_all().get(name)
    return found


def families_of(names: Iterable[str]) -> list[str]:
    """Return the built-in families that define operations; see :func:`load_some`."""
    from lepton_ir.ops import TABLE

    _load_own()
    wanted = set(names)
    return [n for n, module in TABLE.items() if not wanted.isdisjoint(_defined_by[module])]


def load_some(names: Iterable[str]) -> None:
    """Import the built-in families called ``names`` ahead of the others; ignores other names."""
    from lepton_ir.ops import TABLE

    families(TABLE[name] for name in names if name in TABLE)


_SPEC = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*\(([^)]*)\)\s*(?:->\s*(.+?))?\s*$")


def _formals(text: str | None) -> tuple[Operand, ...]:
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    return tuple(Operand(n.rstrip("?*"), n.endswith("?"), n.endswith("*")) for n in names)


def _keywords(function: Callable[..., Any] | None) -> Iterator[tuple[str, Any, Any, bool]]:
    """Yield name, annotation, default and whether it is required of keyword-only parameters.

    Those of a plain function are read from its code: `inspect.signature` takes ten times as long,
    which a start would notice. A NumPy ufunc has no attributes.
    """
    code = getattr(function, "__code__", None)
    if code is None or hasattr(function, "__wrapped__"):
        if function is not None and type(function).__name__ != "ufunc":
            for p in _signature(function):
                empty = p.default is p.empty
                annotation = None if p.annotation is p.empty else p.annotation
                yield p.name, annotation, None if empty else p.default, empty
        return
    defaults = function.__kwdefaults__ or {}  # type: ignore[union-attr]
    annotations, first = function.__annotations__, code.co_argcount
    for name in code.co_varnames[first : first + code.co_kwonlyargcount]:
        yield name, annotations.get(name), defaults.get(name), name not in defaults


def _signature(function: Callable[..., Any]) -> list[Any]:
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind is p.KEYWORD_ONLY]


def _attr_specs(
    function: Callable[..., Any] | None, extra: dict[str, Any], regions: tuple[str, ...]
) -> dict[str, AttrSpec]:
    specs: dict[str, AttrSpec] = {}
    for name, annotation, default, required in _keywords(function):
        if name.startswith("_") or name in regions:
            continue
        text = annotation if isinstance(annotation, str) else ""
        kind = ATTR_KINDS.get(text.split("|")[0].strip())
        if kind is None:
            if annotation is not None:
                raise TypeError(f"attribute {name}: annotation {annotation!r} has no kind")
            continue
        specs[name] = AttrSpec(name, kind, default, required, "None" in text)
    for name, (kind, default) in extra.items():
        specs[name] = AttrSpec(name, kind, default, False, default is None)
    return specs


def op(
    spec: str,
    infer: Callable[[InferContext], Any],
    meaning: Callable[..., Any] | None = None,
    *,
    traits: str = "",
    content: Callable[[InferContext], Any] | None = None,
    decompose: Callable[..., Any] | None = None,
    regions: tuple[str, ...] = (),
    attrs: dict[str, tuple[str, Any]] | None = None,
    doc: str = "",
    opaque: bool = False,
) -> Callable[[Callable[..., Any]], OpDef]:
    """Define an operation: ``op("exp(x)", elementwise, np.exp)``, or as a decorator.

    A one-row definition is complete with the call; its return value is of no use.

    Args:
        spec: operands and results, see the module docstring.
        infer: type inference.
        meaning: the NumPy meaning of a one-row definition; leave out to decorate a function.
        traits: space-separated names out of ``TRAITS``.
        content: symbolic contents of a small integer result.
        decompose: builds the same from smaller operations.
        regions: names of graph-valued attributes, in order.
        attrs: attributes of a one-row definition, ``{"axis": ("int", 0)}``.
        doc: documentation of a one-row definition.
        opaque: a one-row definition without a meaning (random, stateful, strings).

    Raises:
        ValueError: a bad spec, an unknown trait or a name defined twice.
    """
    match = _SPEC.match(spec)
    if not match:
        raise ValueError(f"bad op spec {spec!r}")
    name, operands, results = match[1], _formals(match[2]), _formals(match[3] or "y")
    unknown = set(traits.split()) - TRAITS
    if unknown:
        raise ValueError(f"op {name}: unknown traits {sorted(unknown)}")

    is_row = meaning is not None or opaque

    def define(function: Callable[..., Any] | None) -> OpDef:
        if name in _REGISTRY:
            raise ValueError(f"op {name!r} is defined twice")
        module = getattr(function, "__module__", "") or ""
        definition = OpDef(
            name,
            operands,
            results,
            attrs=_attr_specs(function, attrs or {}, regions),
            traits=frozenset(traits.split()),
            meaning=None if opaque else function,
            infer=infer,
            content=content,
            decompose=decompose,
            regions=regions,
            doc=doc if is_row else getattr(function, "__doc__", "") or "",
            module=module,
        )
        _REGISTRY[name] = definition
        return definition

    if is_row:
        define(meaning)
    return define


def families(names: Iterable[str]) -> None:
    """Import the op families ``names`` (dotted module names)."""
    import importlib

    for module in names:
        before = len(_REGISTRY)
        importlib.import_module(module)
        _defined_by.setdefault(module, set()).update([*_REGISTRY][before:])
