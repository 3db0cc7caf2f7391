"""Whether sentences stay as similar as they were: a quantized text encoder against the float one.

``python -m lepton_ir.tools.bench.quant_embeddings MODEL TOKENS.npz``. The archive holds one array
for each input of the model, a row a sentence (``input_ids``, ``attention_mask``, ...), padded to
one length. Printed are the rank correlation (Spearman) of the similarities of all pairs of
sentences, and the mean and the least cosine between a sentence's two vectors. A result with a time
axis is averaged over the attention mask. ``--peer`` adds onnxruntime's own dynamic quantizer.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import Any

import numpy as np

from lepton_ir.tools.bench.quant_peers import session

Array = np.ndarray[Any, Any]

BATCH = 16
LEAST = 0.995
"""Least rank correlation that counts as kept."""


def embed(path: str, tokens: dict[str, Array]) -> Array:
    """Return a vector of length 1 for each row of ``tokens``."""
    found = session(path)
    names = [x.name for x in found.get_inputs()]
    count = len(next(iter(tokens.values())))
    vectors = []
    for start in range(0, count, BATCH):
        feed = {n: tokens[n][start : start + BATCH] for n in names}
        y = found.run(None, feed)[0]
        if y.ndim == 3:
            mask = feed.get("attention_mask", np.ones(y.shape[:2]))[..., None]
            y = (y * mask).sum(1) / np.maximum(mask.sum(1), 1)
        vectors.append(y.astype(np.float64))
    flat = np.concatenate(vectors)
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def ranks(values: Array) -> Array:
    """Return the rank of each value, the mean rank among equal ones."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def rank_correlation(x: Array, y: Array) -> float:
    """Return Spearman's coefficient."""
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def compare(before: Array, after: Array) -> dict[str, float]:
    """Return how the vectors of two models agree."""
    pairs = np.triu_indices(len(before), 1)
    cosines = np.sum(before * after, axis=1)
    return {
        "rank correlation": rank_correlation((before @ before.T)[pairs], (after @ after.T)[pairs]),
        "mean cosine": float(cosines.mean()),
        "least cosine": float(cosines.min()),
    }


def by_lepton(path: str, target: str, options: str) -> None:
    """Quantize with Lepton."""
    import lepton_ir

    module = lepton_ir.load(path)
    lepton_ir.run_passes(module, f"fuse,quant{{{options}}}")
    lepton_ir.save(module, target)


def by_peer(path: str, target: str) -> None:
    """Quantize with onnxruntime, after its own preparation, with its best settings."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        ready = os.path.join(folder, "ready.onnx")
        quant_pre_process(path, ready, skip_symbolic_shape=True)
        q.quantize_dynamic(ready, target, per_channel=True, weight_type=q.QuantType.QInt8)


def main(argv: list[str] | None = None) -> int:
    """Measure; exit status 1 when the rank correlation is below ``LEAST``."""
    parser = argparse.ArgumentParser(prog="quant_embeddings", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("tokens", help=".npz with an array for each input, a row a sentence")
    parser.add_argument("--options", default="mode=dynamic", help="of the quant pass")
    parser.add_argument("--peer", action="store_true")
    options = parser.parse_args(argv)
    with np.load(options.tokens) as archive:
        tokens = {k: archive[k] for k in archive.files}
    before = embed(options.model, tokens)
    print(f"{len(before)} sentences, {len(before) * (len(before) - 1) // 2} pairs")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {"lepton": os.path.join(folder, "lepton.onnx")}
        by_lepton(options.model, files["lepton"], options.options)
        if options.peer:
            files["peer"] = os.path.join(folder, "peer.onnx")
            by_peer(options.model, files["peer"])
        for name, path in files.items():
            found[name] = compare(before, embed(path, tokens))
            share = os.path.getsize(path) / os.path.getsize(options.model)
            text = ", ".join(f"{k} {v:.5f}" for k, v in found[name].items())
            print(f"{name}: {text}, bytes {share:.3f}", flush=True)
    return int(found["lepton"]["rank correlation"] < LEAST)


if __name__ == "__main__":
    sys.exit(main())
