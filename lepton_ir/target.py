"""What an output will run on, as far as passes may know: the Target protocol.

Backends register theirs in their tables; passes ask, and never import a backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_ir.ir import Module, Op

    Lowerings = Mapping[str, Callable[[Any, Op], Any]]


@runtime_checkable
class Target(Protocol):
    """Answers of a backend about what it can write and how it likes it.

    A target may also have ``lowerings``, see `lowerings_of`.

    Attributes:
        name: as given to ``--target``.

    Optional, for ``getattr``: ``families``, prefixes of the modules whose operations are the
    target's own rather than those of ONNX; see the ``adapt`` pass.
    """

    name: str

    def legal(self, op: Op) -> bool | str:
        """Return ``True``, or the reason why ``op`` cannot be written as one node."""
        ...

    def has(self, name: str, module: Module, attrs: dict[str, Any]) -> bool:
        """Return whether an operation called ``name`` exists in what is written for ``module``."""
        ...

    def quant(self, key: str) -> Any:
        """Return a preference for quantization (``activation_dtype``, ...), ``None`` if none."""
        ...


def lowerings_of(target: Target | None) -> Lowerings:
    """Return a target's own ways to take operations apart, by the operation's name.

    Each is a function ``lower(b, op)`` as an operation's ``decompose``: it builds the same from
    operations that are nearer to the target, or raises ``ValueError`` with the reason.
    """
    found: Lowerings = getattr(target, "lowerings", {})
    return found
