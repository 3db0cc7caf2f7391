"""The numeric check: source and result on the same inputs, in a child process with limits.

A model comes from a stranger: it may loop, allocate without end or crash its runtime. The child
(:mod:`lepton_ir.check_worker`) is started before the passes run, so that it loads the runtime and
runs the source meanwhile; a check costs two sessions of the runner.
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from lepton_ir.check_worker import is_tflite
from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Module

BASE_SECONDS = 7.0
"""Seconds that the runner gets for a small model; an endless loop costs no more than this."""

SECONDS_PER_GB = 40.0
SECONDS_PER_NODE = 4e-4
"""What larger models get on top: loading takes time by size and by nodes."""

BASE_MEMORY = 1536 << 20
"""Bytes that the child may allocate for a small model; larger ones get a multiple of their size."""

MEMORY_FACTOR = 6
MEMORY_SHARE = 0.75
"""Share of the machine's memory that the child may map at most."""

_TIES = {"arg_max", "arg_min", "top_k", "non_max_suppression", "round", "quantize_linear"}
_TIES |= {"dynamic_quantize_linear", "unique", "non_zero", "floor", "ceil", "cast"}


class CheckFailedError(LeptonError):
    """The result does not compute what the source computes."""


def best_runner() -> str:
    """Return ``onnxruntime`` when it is installed, else ``reference``."""
    return "onnxruntime" if importlib.util.find_spec("onnxruntime") else "reference"


def has_litert() -> bool:
    """Return whether LiteRT, which runs TFLite files, is installed."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def time_limit(size: int, nodes: int) -> float:
    """Return the seconds that the runner gets for a model of ``size`` bytes and ``nodes`` nodes."""
    return BASE_SECONDS + SECONDS_PER_GB * size / 1e9 + SECONDS_PER_NODE * nodes


def memory_limit(size: int) -> int:
    """Return the bytes that the child may allocate for a model of ``size`` bytes; 0 for no limit.

    There is none where the system does not tell its memory.
    """
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    return min(BASE_MEMORY + MEMORY_FACTOR * size, int(total * MEMORY_SHARE))


def has_ties(module: Module) -> bool:
    """Return whether integer results of the model can hang on a tie or a rounding."""
    return any(op.name in _TIES for op in module.walk())


def has_steps(module: Module) -> bool:
    """Return whether the model rounds numbers to a few integers on the way."""
    return any("quantize_linear" in op.name or "qlinear" in op.name for op in module.walk())


def has_random(module: Module) -> bool:
    """Return whether the model may give other results each time."""
    return any(
        op.definition is None or op.definition.effects not in ("none",) for op in module.walk()
    )


def facts_of(module: Module) -> dict[str, bool]:
    """Return what the judge must know of the source."""
    return {
        "ties": has_ties(module),
        "steps": has_steps(module),
        "random": has_random(module),
    }


CRASHES = frozenset(
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
)
"""Exit statuses of a process that did something illegal."""

MORE_MEMORY = 4
"""Times the limit that a result which ended the runner gets before it is judged."""


class Checker:
    """The parent's side of the child process.

    Args:
        runner: ``onnxruntime`` or ``reference``; the best one when ``None``.
        timeout: seconds for one request; by the size of the model when ``None``.
        memory: bytes that the child may allocate, 0 for no limit; by the size of the model when
            ``None``.
    """

    def __init__(
        self,
        runner: str | None = None,
        timeout: float | None = None,
        memory: int | None = None,
    ) -> None:
        self.runner = runner or best_runner()
        self.timeout = BASE_SECONDS if timeout is None else timeout
        self._fixed = timeout is not None
        self._memory = memory
        self._sent = 0.0
        self._gave_up: dict[str, Any] | None = None
        self._child: subprocess.Popen[str] | None = None
        self._opened: dict[str, Any] | None = None
        self._pending = 0
        self._buffer = ""

    def start(self) -> None:
        """Start the child; it loads the runtime while the caller goes on."""
        # -P: the user's folder is no place to import from.
        command = [sys.executable, "-P", "-m", "lepton_ir.check_worker", self.runner]
        env = dict(os.environ)
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
        self._buffer, self._pending = "", 0
        self._child = subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env=env,
        )

    def open(
        self,
        path: str,
        *,
        draws: int = 2,
        feeds: list[str] | None = None,
        sizes: dict[str, int] | None = None,
        size: int = 0,
        nodes: int = 0,
    ) -> None:
        """Ask the child to run the source; does not wait for it.

        Args:
            path: the source.
            draws: sets of inputs.
            feeds: files of real inputs instead of drawn ones.
            sizes: sizes of dim symbols that are fixed.
            size: bytes of the model, which the limits follow.
            nodes: nodes of the model, where known by now (see :meth:`allow_for`).
        """
        self._gave_up = None
        self.allow_for(size, nodes)
        self._opened = {
            "open": os.path.abspath(path),
            "draws": draws,
            "feeds": feeds or [],
            "sizes": sizes or {},
            "memory": memory_limit(size) if self._memory is None else self._memory,
            "seconds": self.timeout,
        }
        self._send(self._opened)

    @property
    def gave_up(self) -> bool:
        """Whether every comparison is inconclusive, because the source cannot be run."""
        return self._gave_up is not None

    def give_up(self, reason: str) -> None:
        """Judge every comparison inconclusive."""
        self._gave_up = _inconclusive(reason)
        self.close()

    def allow_for(self, size: int, nodes: int) -> None:
        """Set the time limit by the size of the model, unless the caller fixed it."""
        if not self._fixed:
            self.timeout = max(self.timeout, time_limit(size, nodes))

    def compare(
        self,
        path: str,
        *,
        rtol: float | None = None,
        lossy: bool = False,
        facts: dict[str, bool] | None = None,
        detail: bool = False,
        ends: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Judge a result against the opened source; returns a verdict as a dict.

        Args:
            path: the result's file.
            rtol: relative tolerance, the default one when ``None``.
            lossy: also measure the signal-to-noise ratio, and go on after a mismatch.
            facts: ``ties``, ``steps`` and ``random`` of the source, see :func:`facts_of`.
            detail: also judge each output alone; the verdict's ``tensors`` lists them.
            ends: how the result's inputs and outputs differ from the source's: ``channels_last``
                names those whose channels go last, ``codes`` says how both encode numbers.
        """
        request: dict[str, Any] = {"compare": os.path.abspath(path), "lossy": lossy}
        if detail:
            request["detail"] = True
        request |= {key: value for key, value in (ends or {}).items() if value is not None}
        if rtol is not None:
            request["rtol"] = rtol
        if self._gave_up is not None:
            return self._gave_up
        opening = True
        try:
            if self._child is None or self._child.poll() is not None:
                self._restart()
            reply = self._drain()
            if reply is not None and reply.get("error"):
                raise LeptonError(**reply["error"])
            if reply is not None and reply.get("status"):
                return reply
            opening = False
            self._send({**request, **(facts or {})})
            return self._receive()
        except TimeoutError:
            verdict = _inconclusive(
                f"running it takes longer than {self.timeout:.0f} s (--check-timeout)"
            )
        except EOFError as error:
            verdict = _inconclusive(f"the runner died: {error}")
            if not opening and self._crashed():
                verdict = self._crash(request | (facts or {}))
        self.close()
        if opening:
            self._gave_up = verdict
        return verdict

    def _crashed(self) -> bool:
        return self._child is not None and self._child.returncode in CRASHES

    def _crash(self, request: dict[str, Any]) -> dict[str, Any]:
        """Judge a result that ended the runner, which the source did not.

        It is tried once more with room, since some libraries take missing memory for granted.
        """
        assert self._opened is not None
        opened = dict(self._opened)
        self._opened["memory"] *= MORE_MEMORY
        self.close()
        try:
            self._restart()
            self._drain()
            self._send(request)
            return self._receive()
        except TimeoutError:
            return _inconclusive("the runner died, and with more memory it takes too long")
        except EOFError as error:
            if not self._crashed():
                return _inconclusive(f"the runner died: {error}")
            runner = "LiteRT" if is_tflite(request["compare"]) else self.runner
            reason = f"the result ends {runner}, where the source runs: {error}"
            return {**_inconclusive(reason), "status": "mismatch"}
        finally:
            self._opened = opened
            self.close()  # whose memory is not limited as it should be

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask the runner something; the answer has ``problem`` when there is none.

        Args:
            request: ``ask`` and what belongs to it, see the runner's ``answer``.
            seconds: time for the answer.
        """
        before, self.timeout = self.timeout, max(self.timeout, seconds)
        try:
            if self._gave_up is not None and self._child is None:
                self.start()
            elif self._child is None or self._child.poll() is not None:
                self._restart()
            self._drain()
            self._send(request)
            return self._receive()
        except TimeoutError:
            problem = f"it takes longer than {self.timeout:.0f} s"
        except EOFError as error:
            problem = f"the runner died: {error}"
        finally:
            self.timeout = before
        self.close()
        return {"problem": problem}

    def _drain(self) -> dict[str, Any] | None:
        reply = None
        while self._pending:
            reply = self._receive()
        return reply

    def _restart(self) -> None:
        self.start()
        if self._opened is not None:
            self._send(self._opened)

    def _send(self, request: dict[str, Any]) -> None:
        if self._child is None:
            self.start()
        assert self._child is not None
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise EOFError("it ended before the request") from None
        self._pending += 1
        self._sent = time.monotonic()

    def _receive(self) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdout is not None
        deadline = self._sent + self.timeout
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while "\n" not in self._buffer:
                # What is there already counts, however long the caller took to look.
                if not selector.select(max(deadline - time.monotonic(), 0.0)):
                    raise TimeoutError
                data = os.read(child.stdout.fileno(), 1 << 16)
                if not data:
                    status = child.wait(5)
                    raise EOFError(f"exit status {status}")
                self._buffer += data.decode()
        line, _, self._buffer = self._buffer.partition("\n")
        self._pending -= 1
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    pipe.close()
            self._child = None

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _inconclusive(reason: str) -> dict[str, Any]:
    return {"status": "inconclusive", "reason": reason, "draws": 0, "largest": 0.0, "output": ""}


def bisect(total: int, is_bad: Callable[[int], bool]) -> int | None:
    """Return the smallest n in 1..total with ``is_bad(n)``, or ``None`` if ``is_bad(total)`` fails.

    Assumes that 0 rewrites are good; takes about log2(total) trials.
    """
    if total <= 0 or not is_bad(total):
        return None
    good, bad = 0, total
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_bad(middle):
            bad = middle
        else:
            good = middle
    return bad
