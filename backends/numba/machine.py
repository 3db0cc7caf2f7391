"""The processor that kernels are made for: name, features, vector width, registers, caches."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from lepton_ir.diagnostics import LeptonError

_L1, _L2, _L3 = 32 << 10, 512 << 10, 8 << 20
"""Cache sizes taken where the system does not tell."""


@dataclass(frozen=True)
class Machine:
    """What kernels may use.

    Attributes:
        name: as given to ``target=``.
        cpu: LLVM's name of the processor.
        features: LLVM's feature string.
        lanes: 32-bit lanes of a vector register.
        registers: number of vector registers.
        cores: physical threads that may run at a time.
        l1: bytes of a first-level data cache.
        l2: bytes of a second-level cache.
        l3: bytes of the last-level cache.
    """

    name: str
    cpu: str
    features: str
    lanes: int
    registers: int
    cores: int
    l1: int = _L1
    l2: int = _L2
    l3: int = _L3

    def has(self, feature: str) -> bool:
        """Return whether LLVM may use ``feature`` (``avx512f``, ``fma``)."""
        return f"+{feature}" in self.features.split(",")


_LEVELS = {
    "generic": ("x86-64", "", 4, 16),
    "x86-64-v2": ("x86-64-v2", "+sse4.2", 4, 16),
    "x86-64-v3": ("x86-64-v3", "+avx2,+fma,+f16c", 8, 16),
    "x86-64-v4": ("x86-64-v4", "+avx2,+fma,+f16c,+avx512f,+avx512vl,+avx512bw,+avx512dq", 16, 32),
}
"""Microarchitecture levels: LLVM's processor, features, lanes, vector registers."""


@functools.cache
def machine(name: str = "host") -> Machine:
    """Return the machine called ``name``: ``host``, ``generic`` or a level such as ``x86-64-v3``.

    Raises:
        LeptonError: there is none of this name.
    """
    if name == "host":
        return _host()
    if name not in _LEVELS:
        raise LeptonError(
            f"no machine is called {name!r}",
            code="target",
            hint=f"there are host, {', '.join(_LEVELS)}",
        )
    cpu, features, lanes, registers = _LEVELS[name]
    if name == "generic" and not _is_x86():
        cpu, registers = "generic", 32
    return Machine(name, cpu, features, lanes, registers, _cores(), *_caches())


def _is_x86() -> bool:
    import platform

    return platform.machine().lower() in ("x86_64", "amd64")


def _host() -> Machine:
    from llvmlite import binding as llvm

    features = llvm.get_host_cpu_features()
    lanes, registers = 4, 32
    if _is_x86():
        wide = features.get("avx512f", False) and features.get("avx512vl", False)
        lanes = 16 if wide else 8 if features.get("avx2", False) else 4
        registers = 32 if wide else 16
    return Machine(
        "host",
        llvm.get_host_cpu_name(),
        features.flatten(),
        lanes,
        registers,
        _cores(),
        *_caches(),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _caches() -> tuple[int, int, int]:
    """Return the bytes of the data caches, by level."""
    sizes = {1: _L1, 2: _L2, 3: _L3}
    folder = "/sys/devices/system/cpu/cpu0/cache"
    for entry in os.listdir(folder) if os.path.isdir(folder) else ():
        try:
            level, kind, size = (
                _read(f"{folder}/{entry}/{part}") for part in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K") and int(level) in sizes:
            sizes[int(level)] = int(size[:-1]) << 10
    return sizes[1], sizes[2], sizes[3]


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()
