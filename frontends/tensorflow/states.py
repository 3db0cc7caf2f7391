"""Variables that a signature writes: what they hold before a run, and what behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.diagnostics import UnsupportedError, shorten

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.graph import Access, Shared
    from lepton_ir.ir import Value


def written(shared: Shared, keep: bool) -> dict[str, Value]:
    """Return what variables hold after a run, by name.

    Args:
        shared: says what is read and written.
        keep: make them inputs with a default.

    Raises:
        UnsupportedError: a variable is written twice, or read after it is written.
    """
    found: dict[str, Value] = {}
    for name, writes in shared.writes.items():
        if len(writes) > 1:
            raise UnsupportedError(f"variable {shorten(name)} is written twice", code="tf-variable")
        (write,) = writes
        reads = shared.reads.get(name, [])
        for read in reads:
            if read.scope is not write.scope or _follows(read, write):
                raise UnsupportedError(
                    f"variable {shorten(name)} may be read after it is written", code="tf-variable"
                )
        tensor = shared.variables.tensor(name)
        if write.value.dtype is not tensor.dtype:
            raise UnsupportedError(f"variable {shorten(name)} changes its type", code="tf-variable")
        value = write.value
        if keep:
            argument = shared.function.block.add_arg(tensor.type, name)
            shared.function.overridable[name] = tensor
            for read in reads:
                op = read.value.op
                if read.value is value:
                    value = argument
                read.value.replace_all_uses(argument)
                if op is not None:
                    op.erase()
        found[name] = value
    return found


def _follows(read: Access, write: Access) -> bool:
    """Return whether a read waits for a write."""
    body = read.scope.body
    work, seen = [read.node], set()
    while work:
        name = work.pop()
        if name == write.node:
            return True
        node = body.nodes.get(name)
        if name not in seen and node is not None:
            seen.add(name)
            work += [i.removeprefix("^").partition(":")[0] for i in node.message.input]
    return False
