"""Compiled kernels of one machine: made when first asked for, kept in memory and on disk."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llvmlite import binding as llvm
from llvmlite import ir

from lepton_ir.backends.numba import kernels as families
from lepton_ir.backends.numba.codegen import cache
from lepton_ir.backends.numba.codegen.emitter import KERNEL_TYPE, Emitter
from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lepton_ir.backends.numba.machine import Machine

_EMITTERS: dict[str, Callable[..., None]] = {}
_emitting = threading.RLock()


@dataclass(frozen=True)
class Kernel:
    """What a kernel is: its family and the parameters that its code is specialised for.

    Attributes:
        family: name given to :func:`emits`.
        params: hashable, with a ``repr`` that says everything (it is part of the cache key).
    """

    family: str
    params: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        # Expressions are deep, and every plan looks its kernels up again.
        object.__setattr__(self, "_hash", hash((self.family, self.params)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __str__(self) -> str:
        return f"{self.family}{self.params}"


def emits(family: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``emit(e, *params)`` as the emitter of a kernel family."""

    def register(emit: Callable[..., None]) -> Callable[..., None]:
        if family in _EMITTERS:
            raise ValueError(f"kernel family {family!r} is defined twice")
        _EMITTERS[family] = emit
        return emit

    return register


class Library:
    """The kernels of one machine.

    Attributes:
        machine: what they are made for.
        compiled: number of kernels compiled by this process (others came from the cache).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.compiled = 0
        self._addresses: dict[Kernel, int] = {}
        self._lock = threading.RLock()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self._target_machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=machine.cpu, features=machine.features, opt=3, jit=True
        )
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self._target_machine)
        self._store = cache.Store()
        self._prefix = f"{_emitter_version()}|{machine.cpu}|{machine.features}|{machine.lanes}"

    def address(self, kernel: Kernel) -> int:
        """Return the entry point of ``kernel``, compiled if need be."""
        return self.addresses([kernel])[0]

    def addresses(self, kernels: Iterable[Kernel]) -> list[int]:
        """Return the entry points of several kernels."""
        wanted = list(kernels)
        with self._lock:
            missing = [k for k in dict.fromkeys(wanted) if k not in self._addresses]
            names = [self._add(k) for k in missing]
            if missing:
                self._engine.finalize_object()
            for kernel, name in zip(missing, names, strict=True):
                address = self._engine.get_function_address(name)
                if not address:
                    raise LeptonError(f"kernel {kernel} has no address", code="kernel")
                self._addresses[kernel] = address
            return [self._addresses[k] for k in wanted]

    def _add(self, kernel: Kernel) -> str:
        key = hashlib.sha256(f"{self._prefix}|{kernel!r}".encode()).hexdigest()
        name = f"k_{key[:32]}"
        code = self._store.get(key)
        if code is None:
            code = self.compile(kernel, name)
            self._store.put(key, code)
            self.compiled += 1
        self._engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
        return name

    def compile(self, kernel: Kernel, name: str) -> bytes:
        """Return the object code of ``kernel``, its function called ``name``."""
        module = llvm.parse_assembly(self.llvm_ir(kernel, name))
        module.verify()
        _optimize(module, self._target_machine)
        code: bytes = self._target_machine.emit_object(module)
        return code

    def llvm_ir(self, kernel: Kernel, name: str = "kernel") -> str:
        """Return the LLVM IR of ``kernel`` before optimization."""
        _load_families()
        # llvmlite's types and constants are not safe to build from several threads.
        with _emitting:
            module = ir.Module(name)
            module.triple = self._target_machine.triple
            function = ir.Function(module, KERNEL_TYPE, name)
            emitter = Emitter(function, self.machine)
            _EMITTERS[kernel.family](emitter, *kernel.params)
            emitter.b.ret_void()
            return str(module)


@functools.cache
def library(machine: Machine) -> Library:
    """Return the library of ``machine``; sessions of one process share it."""
    return Library(machine)


@functools.cache
def _load_families() -> None:
    for name in families.MODULES:
        importlib.import_module(name)
    importlib.import_module("lepton_ir.backends.numba.runtime.threads")


def _optimize(module: Any, target_machine: Any) -> None:
    """Combine instructions; the code generator does the rest."""
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(target_machine, options)
    manager = llvm.newpassmanagers.create_new_module_pass_manager()
    manager.add_instruction_combine_pass()
    manager.run(module, builder)


@functools.cache
def _emitter_version() -> str:
    """Return a hash of everything that decides what is emitted, LLVM included."""
    digest = hashlib.sha256(repr(llvm.llvm_version_info).encode())
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in ("codegen", "kernels", "runtime"):
        path = os.path.join(root, folder)
        for name in sorted(os.listdir(path)):
            if name.endswith(".py"):
                with open(os.path.join(path, name), "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()


def kernel_function(address: int) -> Any:
    """Return a kernel as a Python callable that releases the GIL."""
    i64 = ctypes.c_int64
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, i64, i64)(address)
