"""Names of an exported graph as cells, so that what is written in place reads right afterwards.

Graphs of ``torch.export`` may hold views and operations that write into their operand. The IR has
neither: a cell holds the current value of a name, a view knows the cell that it looks into. Writing
into a view writes a new value into what it looks into; reading a view whose base has changed reads
anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Value


class Cell:
    """The current value of a name.

    Args:
        value: the first value.
        base: the cell that this one is a view of.
        read: makes the view of the base's current value.
        write: makes the base's new value from its old one and a new value of the view; ``None``
            where a view cannot be written through.
        what: names the operation that made the view, for messages.
    """

    __slots__ = ("_read", "_seen", "_value", "_write", "base", "version", "what", "written")

    def __init__(
        self,
        value: Value,
        base: Cell | None = None,
        read: Callable[[], Value] | None = None,
        write: Callable[[Value, Value], Value] | None = None,
        what: str = "",
    ) -> None:
        self._value = value
        self.base = base
        self._read = read
        self._write = write
        self._seen = base.current if base else 0
        self.version = 0
        self.what = what
        self.written = False

    @property
    def current(self) -> int:
        """A number that changes with every write to this cell or what it looks into."""
        return self.version + (self.base.current if self.base else 0)

    def get(self) -> Value:
        """Return the current value."""
        if self.base is not None and self.base.current != self._seen:
            assert self._read is not None
            self._value = self._read()
            self._seen = self.base.current
        return self._value

    def set(self, value: Value) -> None:
        """Write a new value, through to what this looks into.

        Raises:
            UnsupportedError: a view that cannot be written through.
        """
        if self.base is not None:
            if self._write is None:
                raise UnsupportedError(
                    f"writes in place through {self.what}, which is not supported",
                    code="torch-inplace",
                    hint="export a graph without in-place operations (run_decompositions())",
                )
            self.base.set(self._write(self.base.get(), value))
            self._seen = self.base.current
        else:
            self.version += 1
        self._value = value
        self.written = True


Slot = Any
"""What a name stands for: a ``Cell``, a list of them, a ``Sym``, a Python number or ``None``."""
