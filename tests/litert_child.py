"""Runs TFLite models in LiteRT: a program of its own, since some models end the process.

Reads a pickled list of ``(model, runs)`` from standard input, where ``runs`` is a list of feeds
(one array per input, in order); writes the pickled list of what each gave: a list of output lists,
or the text of an error.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any


def run(model: bytes, runs: list[list[Any]], reference: bool) -> Any:
    """Return the outputs of every run of one model, state kept between them."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=kind)
    results = []
    for index, feeds in enumerate(runs):
        inputs = interpreter.get_input_details()
        if not index:
            for detail, feed in zip(inputs, feeds, strict=True):
                if tuple(detail["shape"]) != feed.shape:
                    interpreter.resize_tensor_input(detail["index"], feed.shape)
            interpreter.allocate_tensors()
        for detail, feed in zip(inputs, feeds, strict=True):
            interpreter.set_tensor(detail["index"], feed)
        interpreter.invoke()
        outputs = interpreter.get_output_details()
        results.append([interpreter.get_tensor(d["index"]).copy() for d in outputs])
    return results


def isolated(model: bytes, runs: list[list[Any]], reference: bool) -> Any:
    """Run one model in a fork, so that a crash costs only its own result."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            found = run(model, runs, reference)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        with os.fdopen(write, "wb") as file:
            pickle.dump(found, file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    return pickle.loads(data) if data and not status else f"crashed with status {status}"


if __name__ == "__main__":
    import ai_edge_litert.interpreter  # noqa: F401 (loaded once, before the forks)

    jobs = pickle.load(sys.stdin.buffer)
    reference = "--reference" in sys.argv
    pickle.dump([isolated(m, r, reference) for m, r in jobs], sys.stdout.buffer)
