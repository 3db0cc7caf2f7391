"""The target ``numba``: what passes may make for this backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir import dtypes, opdef

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from lepton_ir.backends.numba.session import Session
    from lepton_ir.ir import Module, Op

_QUANT: dict[str, Any] = {
    "activation_dtype": dtypes.U8,
    "weight_dtype": dtypes.I8,
    "weight_symmetric": True,
    "per_channel": True,
    "format": "qdq",
}


class NumbaTarget:
    """Runs on this machine: every operation with a NumPy meaning is legal."""

    name = "numba"

    def legal(self, op: Op) -> bool | str:
        """Return ``True``, or the reason why ``op`` cannot be run."""
        if op.definition is None:
            return f"{op.name} is not known"
        if op.definition.meaning is None and not op.definition.traits & {"terminator"}:
            return True if op.name in ("const", "call") else f"{op.name} has no meaning"
        return True

    def has(self, name: str, module: Module, attrs: dict[str, Any]) -> bool:
        """Return whether an operation called ``name`` can be run."""
        definition = opdef.lookup(name)
        return definition is not None and definition.meaning is not None

    def role(self, op: Op) -> str:
        """Return what ``op`` may be in a group: ``elementwise``, ``anchor`` or nothing."""
        from lepton_ir.backends.numba.kernels.roles import role

        return role(op)

    def quant(self, key: str) -> Any:
        """Return a preference for quantization, ``None`` if there is none."""
        return _QUANT.get(key)

    def save(self, module: Module, path: str | os.PathLike[str], **options: Any) -> None:
        """Write ``module``, made ready for this backend, as a ``.lepton`` file."""
        from lepton_ir.backends.numba.file import save

        save(module, path, **options)

    def outline(self, module: Module, machine: str, sizes: Mapping[str, int]) -> str:
        """Return the plan of a module as text, for a machine whose caches are the same anywhere."""
        from lepton_ir.backends.numba.outline import outline, pinned

        return outline(module, pinned(machine), sizes)

    def compile(
        self,
        model: Module | str | os.PathLike[str] | bytes,
        *,
        target: str = "host",
        threads: int | None = None,
        passes: str = "O2,integers",
        precision: str = "standard",
    ) -> Session:
        """Return a session that runs ``model``; see :func:`lepton_ir.compile`."""
        from lepton_ir.backends.numba.prepare import prepared
        from lepton_ir.backends.numba.session import Session

        return Session(prepared(model, passes), target, threads, precision)


NUMBA = NumbaTarget()
