"""What a run of ``lepton-opt`` is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_ir.diagnostics import Remark
    from lepton_ir.pipeline import PassRecord


@dataclass(frozen=True)
class Options:
    """What the command line asked for; see ``lepton-opt --help``."""

    model: str
    passes: str = "O2"
    output: str | None = None
    emit: str = "onnx"
    target: str = "onnx"
    opset: int | None = None
    dims: tuple[str, ...] = ()
    io_layout: str = "source"
    io_type: str | None = None
    calib: tuple[str, ...] = ()
    check: str = "fast"
    check_timeout: float | None = None
    check_memory: int | None = None
    check_inputs: tuple[str, ...] = ()
    check_each: bool = False
    verify_each: bool = False
    print_after_change: bool = False
    keep_going: bool = False
    reduce: float | None = None
    keep_overridable: bool = False
    signature: str = ""
    frontend: str = ""
    custom_layers: tuple[str, ...] = ()
    inline: bool = False
    remarks: frozenset[str] | None = None
    stop_after: int | None = None
    guard: str | None = None
    attribute: tuple[str, ...] = ()
    exclude_rules: frozenset[str] = frozenset()
    exclude_rewrites: frozenset[str] = frozenset()
    keep_nodes: frozenset[str] = frozenset()
    quant_exclude: tuple[str, ...] = ()
    max_drop: float | None = None
    metric: str | None = None
    progress: Any = None


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        nodes: operations before and after.
        size: bytes of the files before and after (0 when nothing was written).
        records: one per pass.
        rules: how often each rule was applied.
        deltas: operations and bytes of constants that each rule added less what it removed.
        verdict: of the check, ``None`` when it was off.
        guard: what ``--guard`` found, ``None`` when it was off.
        attributed: what ``--attribute`` found, ``None`` when it was off.
        lossy: verdict over the lossy passes, with the signal-to-noise ratio by output.
    """

    source: str
    output: str | None = None
    nodes: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    records: list[PassRecord] = field(default_factory=list)
    rules: dict[str, int] = field(default_factory=dict)
    deltas: dict[str, tuple[int, int]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    verdict: dict[str, Any] | None = None
    lossy: dict[str, Any] | None = None
    excluded: list[str] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    guard: dict[str, Any] | None = None
    attributed: dict[str, Any] | None = None
    seconds: float = 0.0
