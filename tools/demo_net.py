"""The demo's task and model: pictures of strokes, and a small net trained in NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CLASSES = ("horizontal", "vertical", "diagonal", "disc")
SIZE = 16
EPSILON = 1e-5
_MOMENTUM = 0.9


def draw_pictures(count: int, seed: int) -> tuple[Array, Array]:
    """Return ``count`` noisy grey pictures f32[count,1,16,16] in 0..255, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    cy, cx = rng.uniform(4, SIZE - 4, (2, count, 1, 1)).astype(np.float32)
    length = rng.uniform(3, 7, (count, 1, 1)).astype(np.float32)
    dy, dx = y - cy, x - cx
    slope = np.where(rng.integers(0, 2, (count, 1, 1)) == 1, 1.0, -1.0)
    shapes = (
        (np.abs(dy) <= 1) & (np.abs(dx) <= length),
        (np.abs(dx) <= 1) & (np.abs(dy) <= length),
        (np.abs(dy - slope * dx) <= 1.4) & (np.abs(dx) <= length * 0.8),
        dy**2 + dx**2 <= (length * 0.65) ** 2,
    )
    inked = np.choose(labels[:, None, None], shapes)
    pictures = 150 * inked + 50 + rng.normal(0, 40, inked.shape)
    return pictures.clip(0, 255).astype(np.float32)[:, None], labels


def _columns(x: Array) -> Array:
    """Return the 3x3 windows of ``x`` [N,C,H,W], padded by one, as [N*H*W, C*9]."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)


@dataclass
class Block:
    """Convolution 3x3, batch normalization, ReLU and 2x2 max pooling, with their gradients."""

    weight: Array
    scale: Array
    bias: Array
    mean: Array
    variance: Array
    saved: dict[str, Array] = field(default_factory=dict)

    @staticmethod
    def make(rng: np.random.Generator, inputs: int, outputs: int) -> Block:
        """Return a block with random weights."""
        weight = rng.normal(0, (2 / (9 * inputs)) ** 0.5, (outputs, inputs, 3, 3))
        ones, zeros = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
        return Block(weight.astype(np.float32), ones, zeros, zeros.copy(), ones.copy())

    def forward(self, x: Array) -> Array:
        """Return the block's result for a training batch; keeps what `backward` needs."""
        n, _, h, w = x.shape
        columns = _columns(x)
        z = columns @ self.weight.reshape(len(self.weight), -1).T
        mean, variance = z.mean(0), z.var(0)
        self.mean = _MOMENTUM * self.mean + (1 - _MOMENTUM) * mean
        self.variance = _MOMENTUM * self.variance + (1 - _MOMENTUM) * variance
        deviation = np.sqrt(variance + EPSILON)
        normal = (z - mean) / deviation
        active = np.maximum(normal * self.scale + self.bias, 0)
        tiles = active.reshape(n, h // 2, 2, w // 2, 2, -1).transpose(0, 5, 1, 3, 2, 4)
        tiles = tiles.reshape(*tiles.shape[:4], 4)
        winner = tiles.argmax(-1)
        self.saved = {"columns": columns, "deviation": deviation, "normal": normal}
        self.saved |= {"active": active, "winner": winner}
        return np.asarray(np.take_along_axis(tiles, winner[..., None], -1)[..., 0])

    def backward(self, gradient: Array, rate: float) -> Array:
        """Take a step down the gradient of the result; return that of the 3x3 windows."""
        n, _, h, w = gradient.shape
        s = self.saved
        tiles = np.zeros((*gradient.shape, 4), np.float32)
        np.put_along_axis(tiles, s["winner"][..., None], gradient[..., None], -1)
        spread = tiles.reshape(*gradient.shape, 2, 2).transpose(0, 2, 4, 3, 5, 1)
        g = spread.reshape(4 * n * h * w, -1) * (s["active"] > 0)
        normal = s["normal"]
        g_scale, g_bias = (g * normal).mean(0), g.mean(0)
        step = (g - g_bias - normal * g_scale) * self.scale / s["deviation"]
        g_weight = (step.T @ s["columns"]).reshape(self.weight.shape)
        windows = step @ self.weight.reshape(len(self.weight), -1)
        self.weight = self.weight - np.float32(rate) * g_weight
        self.scale = self.scale - np.float32(rate * len(g)) * g_scale
        self.bias = self.bias - np.float32(rate * len(g)) * g_bias
        return np.asarray(windows)


def _image_gradient(windows: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an input of ``shape`` from that of its 3x3 windows."""
    n, c, h, w = shape
    parts = windows.reshape(n, h, w, c, 3, 3)
    padded = np.zeros((n, c, h + 2, w + 2), np.float32)
    for i in range(3):
        for j in range(3):
            padded[:, :, i : i + h, j : j + w] += parts[..., i, j].transpose(0, 3, 1, 2)
    return padded[:, :, 1:-1, 1:-1]


@dataclass
class Linear:
    """``x @ weight + bias``."""

    weight: Array
    bias: Array

    @staticmethod
    def make(rng: np.random.Generator, inputs: int, outputs: int) -> Linear:
        """Return a layer with random weights."""
        weight = rng.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)).astype(np.float32)
        return Linear(weight, np.zeros(outputs, np.float32))

    def forward(self, x: Array) -> Array:
        """Return the result for a batch."""
        return np.asarray(x @ self.weight + self.bias)

    def backward(self, x: Array, gradient: Array, rate: float) -> Array:
        """Take a step down the gradient of the result; return that of ``x``."""
        back = gradient @ self.weight.T
        self.weight = self.weight - np.float32(rate) * (x.T @ gradient)
        self.bias = self.bias - np.float32(rate) * gradient.sum(0)
        return np.asarray(back)


@dataclass
class Net:
    """Two blocks, then two linear layers over the flattened result, with a ReLU between."""

    blocks: list[Block]
    hidden: Linear
    head: Linear

    def step(self, pictures: Array, labels: Array, rate: float) -> None:
        """Train on one batch: softmax, cross entropy, one step down the gradient."""
        first, second = self.blocks
        middle = first.forward(normalized(pictures))
        deep = second.forward(middle)
        flat = deep.reshape(len(deep), -1)
        hidden = np.maximum(self.hidden.forward(flat), 0)
        logits = self.head.forward(hidden)
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        share[np.arange(len(labels)), labels] -= 1
        g = self.head.backward(hidden, share / len(labels), rate) * (hidden > 0)
        g = self.hidden.backward(flat, g, rate).reshape(deep.shape)
        first.backward(_image_gradient(second.backward(g, rate), middle.shape), rate)


def train(seed: int = 0, steps: int = 120, batch: int = 32) -> Net:
    """Train a net on fresh pictures; takes a few seconds."""
    rng = np.random.default_rng(seed)
    blocks = [Block.make(rng, 1, 8), Block.make(rng, 8, 16)]
    flat = 16 * (SIZE // 4) ** 2
    net = Net(blocks, Linear.make(rng, flat, 64), Linear.make(rng, 64, len(CLASSES)))
    for i in range(steps):
        net.step(*draw_pictures(batch, seed=1000 + i), rate=0.1 * (1 - i / steps))
    return net


MEAN, DEVIATION = 70.0, 55.0


def normalized(pictures: Array) -> Array:
    """Return pictures with about zero mean and unit deviation, as the exported model does it."""
    return ((pictures - MEAN) / DEVIATION).astype(np.float32)
