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
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from lepton_ir.diagnostics import LeptonError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lepton_ir.ir import Module

TIMEOUT_SECONDS = 120.0
MEMORY_SHARE = 0.75
"""Share of the machine's memory that the child may map."""

_TIES = {"arg_max", "arg_min", "top_k", "non_max_suppression", "round", "quantize_linear"}
_TIES |= {"dynamic_quantize_linear", "unique", "non_zero", "floor", "ceil", "cast"}


class CheckFailedError(LeptonError):
    """The result does not compute what the source computes."""


def best_runner() -> str:
    """Return ``onnxruntime`` when it is installed, else ``reference``."""
    return "onnxruntime" if importlib.util.find_spec("onnxruntime") else "reference"


def memory_limit() -> int:
    """Return the child's memory limit in MiB; 0 for none where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
    return int(total * MEMORY_SHARE) >> 20


def has_ties(module: Module) -> bool:
    """Return whether integer results of the model can hang on a tie or a rounding."""
    return any(op.name in _TIES for op in module.walk())


def has_random(module: Module) -> bool:
    """Return whether the model may give other results each time."""
    return any(
        op.definition is None or op.definition.effects not in ("none",) for op in module.walk()
    )


class Checker:
    """The parent's side of the child process.

    Args:
        runner: ``onnxruntime`` or ``reference``; the best one when ``None``.
        timeout: seconds for one request.
    """

    def __init__(self, runner: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self.runner = runner or best_runner()
        self.timeout = timeout
        self._child: subprocess.Popen[str] | None = None
        self._opened: dict[str, Any] | None = None
        self._pending = 0
        self._buffer = ""

    def start(self) -> None:
        """Start the child; it loads the runtime while the caller goes on."""
        command = [sys.executable, "-m", "lepton_ir.check_worker", self.runner]
        env = dict(os.environ)
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
        self._buffer, self._pending = "", 0
        self._child = subprocess.Popen(
            [*command, str(memory_limit())],
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
    ) -> None:
        """Ask the child to run the source; does not wait for it.

        Args:
            path: the source.
            draws: sets of inputs.
            feeds: files of real inputs instead of drawn ones.
            sizes: sizes of dim symbols that are fixed.
        """
        self._opened = {
            "open": os.path.abspath(path),
            "draws": draws,
            "feeds": feeds or [],
            "sizes": sizes or {},
        }
        self._send(self._opened)

    def compare(
        self,
        path: str,
        *,
        rtol: float | None = None,
        lossy: bool = False,
        facts: dict[str, bool] | None = None,
    ) -> dict[str, Any]:
        """Judge a result against the opened source; returns a verdict as a dict.

        Args:
            path: the result's file.
            rtol: relative tolerance, the default one when ``None``.
            lossy: also measure the signal-to-noise ratio, and go on after a mismatch.
            facts: ``ties`` and ``random`` of the source, see :func:`has_ties`.
        """
        request: dict[str, Any] = {"compare": os.path.abspath(path), "lossy": lossy}
        if rtol is not None:
            request["rtol"] = rtol
        if self._child is None or self._child.poll() is not None:
            self._restart()
        try:
            reply = self._drain()
            if reply is not None and reply.get("status"):
                return reply
            self._send({**request, **(facts or {})})
            answer = self._receive()
        except TimeoutError:
            self.close()
            return _inconclusive(f"the runner took longer than {self.timeout:.0f} s")
        except EOFError as error:
            self.close()
            return _inconclusive(f"the runner died: {error}")
        return answer

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

    def _receive(self) -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdout is not None
        deadline = time.monotonic() + self.timeout
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while "\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
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
