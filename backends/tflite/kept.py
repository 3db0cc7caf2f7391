"""What a TFLite file had beside its graph, and gets again: names, signatures, metadata, archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_ir.formats.tflite.node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lepton_ir.ir import Function, Module

SIGNATURE = "serving_default"
"""Name of the signature, where the source has none."""

_OURS = "lepton."
"""In front of metadata that the writer makes anew."""


def _of_file(module: Module) -> dict[str, Any]:
    found: dict[str, Any] = module.meta.get("tflite", {})
    return found


def description(module: Module) -> str:
    """Return the text that describes the model."""
    given = _of_file(module).get("description") or module.meta.get("producer_name")
    return str(given or "lepton")


def metadata(module: Module) -> Iterator[tuple[str, bytes]]:
    """Yield the metadata of the file that the module was read from, without our own."""
    for name, data in _of_file(module).get("metadata", ()):
        if not name.startswith(_OURS):
            yield name, data.data


def archive(module: Module) -> bytes | None:
    """Return the archive behind the file that the module was read from."""
    found = _of_file(module).get("archive")
    return None if found is None else found.data


def signatures_of(function: Function) -> list[dict[str, Any]]:
    """Return what the metadata says of a function's signatures."""
    return list(function.meta.get("signatures", ()))


def tensor_names(function: Function) -> tuple[list[str], list[str]]:
    """Return names for the tensors of a function's inputs and outputs, states included."""
    given: dict[str, list[str]] = function.meta.get("tensors", {})
    found = []
    for key, names in (
        ("inputs", [v.name or f"input_{i}" for i, v in enumerate(function.inputs)]),
        ("outputs", list(function.output_names)),
    ):
        known = given.get(key, [])
        found.append([*known, *names[len(known) :]])
    return found[0], found[1]


def signatures(
    function: Function, subgraph: int, inputs: Sequence[int], outputs: Sequence[int]
) -> list[Node]:
    """Return the signatures of a function: its own, else one with the names of the values."""
    names = [v.name or f"input_{i}" for i, v in enumerate(function.inputs)]
    entries = signatures_of(function) or [
        {"key": SIGNATURE, "inputs": names, "outputs": list(function.output_names)}
    ]
    return [
        Node(
            "SignatureDef",
            inputs=_maps(entry["inputs"], inputs),
            outputs=_maps(entry["outputs"], outputs),
            signature_key=entry["key"],
            subgraph_index=subgraph,
        )
        for entry in entries
    ]


def _maps(names: Sequence[str], tensors: Sequence[int]) -> list[Node]:
    return [
        Node("TensorMap", name=n, tensor_index=t) for n, t in zip(names, tensors, strict=False) if n
    ]
