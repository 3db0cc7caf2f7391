"""Whether quantized models decide as the float ones do, on real photographs and sounds.

``python -m lepton_ir.tools.bench.quant_decisions MODELS`` with a folder of models (``real/``) and
data (``data/``). Decisions, by model:

* text detection (PP-OCR det): the map of pixels above 0.3 of every photograph; those of text must
  overlap (intersection over union of all photographs), the others must stay empty;
* text recognition (PP-OCR rec): the characters read from the places where text was found;
* text direction (PP-OCR cls): upright or turned, of these places and of them turned;
* voice detection (silero-vad): speech or not in each frame of 32 ms.

The first half of the inputs, taken in turns, is the calibration data of static mode; decisions are
compared on all of them.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ir.tools.bench.quant_peers import session

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

TEXT = 0.3
"""Probability from which a pixel is one of text."""

SPEECH = 0.5
"""Probability from which a frame is one of speech."""

FRAME, CONTEXT = 512, 64
"""Samples of a frame, and of the end of the one before that the model wants in front."""

PASSES = ("quant{mode=dynamic}", "quant{mode=static}")

GAINS = (1.0, 0.5, 0.2)
"""How loud the sounds are played."""


@dataclass
class Outcome:
    """How the decisions of two models agree.

    Attributes:
        kept: share of the decisions that are the same, or how much maps overlap.
        count: how many decisions there are.
        distance: of the outputs, ``|x - y| / |x|``.
    """

    kept: float
    count: int
    distance: float


# -- data ----------------------------------------------------------------------------------------


def bitmap(path: Path) -> Array | None:
    """Return a 24-bit bitmap as ``[H, W, 3]`` u8, blue first; ``None`` for other kinds."""
    data = path.read_bytes()
    (start,) = struct.unpack("<I", data[10:14])
    width, height, _, bits = struct.unpack("<iiHH", data[18:30])
    if bits != 24:
        return None
    stride = (3 * width + 3) // 4 * 4
    lines = np.frombuffer(data, np.uint8, stride * abs(height), start).reshape(-1, stride)
    image = lines[:, : 3 * width].reshape(abs(height), width, 3)
    return image[::-1] if height > 0 else image


def photographs(models: Path) -> list[Array]:
    """Return all bitmaps that are photographs."""
    files = sorted((models / "data" / "coral").glob("*.bmp"))
    return [image for f in files if (image := bitmap(f)) is not None]


def sounds(models: Path) -> list[Array]:
    """Return all sounds, f32 in [-1, 1], and one after the other."""
    found = []
    for path in sorted((models / "data" / "audio").glob("*.wav")):
        with wave.open(str(path)) as file:
            raw = file.readframes(file.getnframes())
        found.append(np.frombuffer(raw, np.int16).astype(np.float32) / 32768)
    return [gain * s for s in (*found, np.concatenate(found)) for gain in GAINS]


def resized(image: Array, height: int, width: int) -> Array:
    """Return an image stretched to a size, between its pixels by bilinear interpolation."""
    out = image.astype(np.float32)
    for axis, size in ((0, height), (1, width)):
        at = np.clip((np.arange(size) + 0.5) * out.shape[axis] / size - 0.5, 0, None)
        low = np.minimum(at.astype(np.int64), out.shape[axis] - 1)
        high = np.minimum(low + 1, out.shape[axis] - 1)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1)).astype(np.float32)
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    return out


def planes(image: Array, mean: Any = 0.5, deviation: Any = 0.5) -> Array:
    """Return pixels 0 to 255 as the model's ``[1, 3, H, W]``."""
    scaled = (image.astype(np.float32) / 255 - np.float32(mean)) / np.float32(deviation)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def detector_feeds(images: list[Array]) -> list[Feed]:
    """Return photographs as the detector wants them, cut to multiples of 32."""
    feeds = []
    for image in images:
        h, w = (d // 32 * 32 for d in image.shape[:2])
        pixels = planes(image[:h, :w], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        feeds.append({"x": pixels})
    return feeds


def lines_of_text(images: list[Array], maps: list[Array]) -> list[Array]:
    """Return the parts of photographs where a detector's maps show text, a little larger."""
    found = []
    for image, map_ in zip(images, maps, strict=True):
        for top, bottom, left, right in boxes(map_ > TEXT):
            more = (bottom - top) // 2
            found.append(
                image[max(top - more, 0) : bottom + more, max(left - more, 0) : right + more]
            )
    return found


def boxes(mask: Array) -> list[tuple[int, int, int, int]]:
    """Return the bounds of connected parts of a mask that are at least 4 x 8 pixels."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        pending = [min(left)]
        left.discard(pending[0])
        part = []
        while pending:
            y, x = pending.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            pending += near
        low, high = np.min(part, axis=0), np.max(part, axis=0) + 1
        if high[0] - low[0] >= 4 and high[1] - low[1] >= 8:
            found.append((int(low[0]), int(high[0]), int(low[1]), int(high[1])))
    return sorted(found)


def recognizer_feeds(lines: list[Array]) -> list[Feed]:
    """Return lines of text 48 pixels high."""
    widths = [max(round(48 * image.shape[1] / image.shape[0] / 8) * 8, 48) for image in lines]
    return [{"x": planes(resized(i, 48, w))} for i, w in zip(lines, widths, strict=True)]


def direction_feeds(lines: list[Array]) -> list[Feed]:
    """Return lines of text, and turned ones, in 48 x 192 pixels."""
    both = [turned for image in lines for turned in (image, image[::-1, ::-1])]
    return [{"x": planes(resized(image, 48, 192))} for image in both]


def voice_feeds(path: str, clips: list[Array]) -> list[Feed]:
    """Return frame after frame of all clips, with the states that the float model goes through."""
    model = session(path)
    names = {x.name for x in model.get_inputs()}
    feeds = []
    for clip in clips:
        state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
        for start in range(0, len(clip) - FRAME + 1, FRAME):
            samples = np.concatenate([context, clip[start : start + FRAME]])[None]
            feed = {"input": samples, "state": state, "sr": np.asarray(16000, np.int64)}
            feeds.append({k: v for k, v in feed.items() if k in names})
            _, state = model.run(None, feeds[-1])
            context = clip[start + FRAME - CONTEXT : start + FRAME]
    return feeds


# -- decisions -----------------------------------------------------------------------------------


def results(path: str, feeds: list[Feed]) -> list[Array]:
    """Return the first output for each feed."""
    model = session(path)
    return [model.run(None, feed)[0] for feed in feeds]


def overlap(before: list[Array], after: list[Array]) -> tuple[float, int]:
    """Return the intersection over union of maps, all together."""
    pairs = [(x > TEXT, y > TEXT) for x, y in zip(before, after, strict=True)]
    both, any_ = (
        sum(int(f(x, y).sum()) for x, y in pairs) for f in (np.logical_and, np.logical_or)
    )
    return (both / any_ if any_ else 1.0), len(pairs)


def agreement(decide: Callable[[Array], Any]) -> Callable[..., tuple[float, int]]:
    """Return what compares the decisions of ``decide`` one by one."""

    def compare(before: list[Array], after: list[Array]) -> tuple[float, int]:
        same = [bool(decide(x) == decide(y)) for x, y in zip(before, after, strict=True)]
        return float(np.mean(same)), len(same)

    return compare


def characters(y: Array) -> tuple[int, ...]:
    """Return what is read: the best classes, repeated and blank ones left out."""
    best = y[0].argmax(-1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return tuple(kept[kept != 0].tolist())


COMPARE: dict[str, Callable[..., tuple[float, int]]] = {
    "detection": overlap,
    "recognition": agreement(characters),
    "direction": agreement(lambda y: int(y.argmax())),
    "voice": agreement(lambda y: bool(y.item() > SPEECH)),
}


def tasks(models: Path) -> dict[str, tuple[str, list[Feed]]]:
    """Return by kind of decision the model and all inputs."""
    real = models / "real"
    names = ("ch_PP-OCRv4_det_infer", "ch_PP-OCRv4_rec_infer", "ch_ppocr_mobile_v2.0_cls_infer")
    det, rec, cls = (str(real / "rapidocr" / f"{n}.onnx") for n in names)
    images = photographs(models)
    found = detector_feeds(images)
    lines = lines_of_text(images, [y[0, 0] for y in results(det, found)])
    voice = str(real / "silero-vad" / "silero_vad_16k_op15.onnx")
    return {
        "detection": (det, found),
        "recognition": (rec, recognizer_feeds(lines)),
        "direction": (cls, direction_feeds(lines)),
        "voice": (voice, voice_feeds(voice, sounds(models))),
    }


def quantize(path: str, target: str, text: str, feeds: list[Feed], opset: int) -> None:
    """Quantize a file with the pass ``text``; feeds are the data of static mode."""
    import lepton_ir

    module = lepton_ir.load(path)
    before = "legalize," if module.opsets[""] < opset else ""
    module.opsets[""] = max(module.opsets[""], opset)
    data = None if "mode=dynamic" in text else lambda: iter(feeds)
    lepton_ir.run_passes(module, f"{before}fuse,{text}", feeds=data)
    lepton_ir.save(module, target)


def measure(kind: str, path: str, feeds: list[Feed], text: str, opset: int = 13) -> Outcome:
    """Quantize a model and compare its decisions with those of the float model."""
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "quantized.onnx")
        quantize(path, target, text, feeds[::2], opset)
        before, after = results(path, feeds), results(target, feeds)
    kept, count = COMPARE[kind](before, after)
    signal = sum(float(np.square(x, dtype=np.float64).sum()) for x in before)
    pairs = zip(before, after, strict=True)
    noise = sum(float(np.square(x.astype(np.float64) - y).sum()) for x, y in pairs)
    return Outcome(kept, count, float(np.sqrt(noise / signal)))


def main(argv: list[str] | None = None) -> int:
    """Measure; exit status 1 when fewer decisions are kept than ``--least``."""
    parser = argparse.ArgumentParser(prog="quant_decisions", description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, help="folder with real/ and data/")
    parser.add_argument("--kinds", default=",".join(COMPARE), help="of: %(default)s")
    parser.add_argument(
        "--passes", nargs="+", default=["quant{mode=dynamic}", "quant{mode=static}"]
    )
    parser.add_argument("--least", type=float, default=0.95)
    options = parser.parse_args(argv)
    worst = 1.0
    found = tasks(options.models)
    for kind in options.kinds.split(","):
        path, feeds = found[kind]
        for text in options.passes:
            o = measure(kind, path, feeds, text)
            print(
                f"{kind:<12}{text:<40} kept {o.kept:.4f} of {o.count}, distance {o.distance:.4f}",
                flush=True,
            )
            worst = min(worst, o.kept)
    return int(worst < options.least)


if __name__ == "__main__":
    sys.exit(main())
