"""Variables that a signature writes: what they hold before a run, and what behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lepton_ir.diagnostics import UnsupportedError, shorten

if TYPE_CHECKING:
    from lepton_ir.frontends.tensorflow.graph import Access, Scope, Shared
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
        if any(_follows(read, write) for read in reads):
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


def _chain(access: Access) -> list[tuple[Scope, str]]:
    """Return the node of an access in the scope where it is, and in those around."""
    chain = [(access.scope, access.node)]
    while chain[-1][0].caller is not None:
        chain.append(chain[-1][0].caller)
    return chain


def _follows(read: Access, write: Access) -> bool:
    """Return whether a read waits for a write, in the innermost scope that holds both."""
    writes = {id(scope): node for scope, node in _chain(write)}
    scope, node = next(c for c in _chain(read) if id(c[0]) in writes)
    writer = writes[id(scope)]
    work, seen = [node], set()
    while work:
        name = work.pop()
        if name == writer:
            return True
        found = scope.body.nodes.get(name)
        if name not in seen and found is not None:
            seen.add(name)
            work += [i.removeprefix("^").partition(":")[0] for i in found.message.input]
    return False
