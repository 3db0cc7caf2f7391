"""Makes ``tests/data/tf_graphs.tar.xz``: small SavedModels and frozen graphs, with their results.

Run with a Python that has tensorflow: ``python tests/oracle/tf_graphs.py OUT.tar.xz [case ...]``.
A case is a folder ``NAME/`` (or a file ``NAME.pb``, ``NAME.pbtxt``) and ``NAME.npz``: arrays
``run:i:NAME`` are inputs, ``run:o:NAME`` results, of several runs with other sizes.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
RNG = np.random.default_rng(0)
Runs = list[dict[str, np.ndarray]]
MODULES: dict[str, tuple[Callable[[], Any], Runs]] = {}
GRAPHS: dict[str, tuple[Callable[[], Any], Runs, bool]] = {}
SPEC = tf.TensorSpec


def f(*shape: int) -> np.ndarray:
    """Return drawn floats."""
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def module(name: str, *runs: dict[str, Any]) -> Any:
    """Add a case that is a ``tf.Module`` with a function ``call``, or a Keras model."""

    def register(build: Callable[[], Any]) -> Any:
        MODULES[name] = build, [{k: np.asarray(v) for k, v in r.items()} for r in runs]
        return build

    return register


def graph(name: str, *runs: dict[str, Any], text: bool = False) -> Any:
    """Add a case that is a graph of TensorFlow 1, with its own control flow."""

    def register(build: Callable[[], Any]) -> Any:
        GRAPHS[name] = build, [{k: np.asarray(v) for k, v in r.items()} for r in runs], text
        return build

    return register


class Module(tf.Module):
    """Variables and a function."""

    def __init__(self, call: Any, specs: list[Any], **variables: Any) -> None:
        super().__init__()
        for key, value in variables.items():
            setattr(self, key, tf.Variable(value, name=key))
        self.call = tf.function(lambda *a: call(self, *a), input_signature=specs)


X = SPEC([None, 4], tf.float32, "x")
N = SPEC([], tf.int32, "n")
XN: list[Any] = [X, N]
TWO = [{"x": f(2, 4)}, {"x": f(5, 4)}]
COUNTED = [{"x": f(2, 4), "n": np.int32(3)}, {"x": f(3, 4), "n": np.int32(0)}]


@module("dense", *TWO)
def _dense() -> Any:
    return Module(
        lambda m, x: {"y": tf.nn.relu(x @ m.w + m.b), "z": x * m.s}, [X], w=f(4, 3), b=f(3), s=2.0
    )


@module("aliases", *TWO)
def _aliases() -> Any:
    inner = tf.Module()
    inner.w = tf.Variable(f(4, 4), name="w")
    made = Module(lambda m, x: x @ m.inner.w @ m.again.w, [X])
    made.inner = made.again = inner
    return made


@module("calls", *TWO)
def _calls() -> Any:
    @tf.function
    def square(a: Any) -> Any:
        return a * a

    @tf.function
    def twice(a: Any) -> Any:
        return square(a) + square(a + 1.0)

    return Module(lambda m, x: twice(x) + twice(x * m.w), [X], w=f(4))


@module("while", *COUNTED)
def _while() -> Any:
    def call(m: Any, x: Any, n: Any) -> Any:
        for _ in tf.range(n):
            x = tf.tanh(x @ m.w)
        return x

    return Module(call, XN, w=f(4, 4))


@module("while_nested", *COUNTED)
def _nested() -> Any:
    def call(m: Any, x: Any, n: Any) -> Any:
        i = tf.constant(0)
        while i < n:
            j = tf.constant(0)
            while j < i + 1:
                x = x * 0.5 + m.w
                j += 1
            if tf.reduce_sum(x) > 1.0:
                x = -x
            i += 1
        return x, i

    return Module(call, XN, w=f(4))


@module("while_until", {"x": np.ones((2, 4), np.float32)}, {"x": np.full((1, 4), 9, np.float32)})
def _until() -> Any:
    def call(m: Any, x: Any) -> Any:
        steps = tf.constant(0)
        while tf.reduce_sum(x) < 50.0:
            x = x * m.w
            steps += 1
        return x, steps

    return Module(call, [X], w=2.0)


@module("while_grows", *COUNTED)
def _grows() -> Any:
    def call(m: Any, x: Any, n: Any) -> Any:
        def body(i: Any, y: Any) -> Any:
            return i + 1, tf.concat([y, y[:1] + m.w], 0)

        return tf.while_loop(
            lambda i, y: i < n,
            body,
            [tf.constant(0), x],
            shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, 4])],
        )[1]

    return Module(call, XN, w=f(4))


@module("cond", {"x": f(2, 4)}, {"x": -np.ones((2, 4), np.float32)})
def _cond() -> Any:
    def call(m: Any, x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0.0, lambda: (x @ m.w, x), lambda: (x @ m.v, -x))

    return Module(call, [X], w=f(4, 4), v=f(4, 4))


@module("case", *({"x": f(2, 4), "n": np.int32(i)} for i in (-1, 0, 1, 2, 3, 7)))
def _case() -> Any:
    def call(m: Any, x: Any, n: Any) -> Any:
        made = [lambda: x, lambda: x * m.w, lambda: x - m.w, lambda: tf.sin(x)]
        return tf.switch_case(n, made)

    return Module(call, XN, w=f(4))


@module("map_fn", *TWO)
def _map() -> Any:
    return Module(lambda m, x: tf.map_fn(lambda r: r * tf.reduce_sum(r * m.w), x), [X], w=f(4))


@module("scan", *TWO)
def _scan() -> Any:
    return Module(lambda m, x: tf.scan(lambda a, r: a * m.w + r, x, tf.zeros([4])), [X], w=f(4))


@module("array", *COUNTED)
def _array() -> Any:
    def call(m: Any, x: Any, n: Any) -> Any:
        items = tf.TensorArray(tf.float32, size=0, dynamic_size=True, element_shape=[4])
        for i in tf.range(n + 1):
            items = items.write(i, x[0] * tf.cast(i, tf.float32))
        return items.stack()

    return Module(call, XN)


@module("array_read", *COUNTED)
def _array_read() -> Any:
    def call(m: Any, x: Any, n: Any) -> Any:
        items = tf.TensorArray(tf.float32, size=6, element_shape=[None, 4], clear_after_read=False)
        items = items.write(0, x).write(1, x * m.w)
        for i in tf.range(2, 6):
            items = items.write(i, items.read(i - 1) + items.read(i - 2))
        return items.gather([5, 0]), items.concat()

    return Module(call, XN, w=f(4))


@module("embedding", {"ids": np.int32([[1, 2], [0, 4]])})
def _embedding() -> Any:
    return Module(
        lambda m, ids: tf.nn.embedding_lookup(m.table, ids),
        [SPEC([None, 2], tf.int32, "ids")],
        table=f(5, 3),
    )


@module("counter", *TWO)
def _counter() -> Any:
    def call(m: Any, x: Any) -> Any:
        before = m.total.read_value()
        m.total.assign(before + tf.reduce_sum(x))
        return x + before

    return Module(call, [X], total=1.5)


def _keras(*layers: Any, shape: tuple[int | None, ...] = (None, 4)) -> Any:
    keras.utils.set_random_seed(1)
    x = keras.Input(shape, name="x")
    y = x
    for layer in layers:
        y = layer(y)
    return keras.Model(x, y)


L = keras.layers
SEQUENCES = [{"x": f(2, 5, 4)}, {"x": f(1, 3, 4)}, {"x": f(3, 1, 4)}]


@module("lstm", *SEQUENCES)
def _lstm() -> Any:
    return _keras(L.LSTM(3, return_sequences=True), L.LSTM(2))


@module("lstm_static", {"x": f(2, 5, 4)})
def _lstm_static() -> Any:
    return _keras(L.LSTM(3, return_sequences=True, go_backwards=True), shape=(5, 4))


@module("gru", *SEQUENCES)
def _gru() -> Any:
    return _keras(L.GRU(3, return_sequences=True), L.GRU(2, reset_after=False))


@module("rnn", *SEQUENCES)
def _rnn() -> Any:
    return _keras(L.SimpleRNN(3, return_sequences=True), L.SimpleRNN(2, activation="relu"))


@module("bidirectional", *SEQUENCES)
def _bidirectional() -> Any:
    return _keras(L.Bidirectional(L.LSTM(3, return_sequences=True)), L.Bidirectional(L.GRU(2)))


@module("masked", {"x": np.concatenate([f(2, 3, 4), np.zeros((2, 2, 4), np.float32)], 1)})
def _masked() -> Any:
    return _keras(L.Masking(), L.LSTM(3), shape=(5, 4))


@module("conv_lstm", {"x": f(1, 3, 4, 4, 2)})
def _conv_lstm() -> Any:
    return _keras(L.ConvLSTM2D(2, 3, padding="same"), shape=(3, 4, 4, 2))


@module("convnet", {"x": f(2, 8, 8, 3)})
def _convnet() -> Any:
    layers = L.Conv2D(4, 3, strides=2, padding="same"), L.BatchNormalization(), L.ReLU()
    more = L.DepthwiseConv2D(3), L.GlobalAveragePooling2D(), L.Dense(3, "softmax")
    return _keras(*layers, *more, shape=(8, 8, 3))


# -- TensorFlow 1 ----------------------------------------------------------------------------------


def _input(shape: Any = (None, 4), dtype: Any = tf.float32, name: str = "x") -> Any:
    return v1.placeholder(dtype, shape, name)


@graph("v1_dense", *TWO)
def _v1_dense() -> Any:
    return tf.nn.relu(_input() @ tf.constant(f(4, 3)) + tf.constant(f(3)))


@graph("v1_bias", {"x": f(1, 4)})
def _v1_bias() -> Any:
    x = _input((1, 4))
    return tf.nn.bias_add(x, tf.squeeze(x * tf.constant(f(4)), [0]))


@graph("v1_text", *TWO, text=True)
def _v1_text() -> Any:
    return tf.nn.softmax(_input() * tf.constant(f(4)))


@graph("v1_cond", {"x": f(2, 4)}, {"x": -np.ones((2, 4), np.float32)})
def _v1_cond() -> Any:
    x = _input()
    total = tf.reduce_sum(x)

    def yes() -> Any:
        return v1.cond(total > 1.0, lambda: x * 2.0, lambda: x + 5.0)

    return v1.cond(total > 0.0, yes, lambda: tf.sin(x) + tf.constant(1.0))


@graph("v1_while", *COUNTED)
def _v1_while() -> Any:
    x, n = _input(), _input((), tf.int32, "n")
    w = tf.constant(f(4, 4))
    return v1.while_loop(lambda i, y: i < n, lambda i, y: [i + 1, tf.tanh(y @ w)], [0, x])[1]


@graph("v1_nested", *COUNTED)
def _v1_nested() -> Any:
    x, n = _input(), _input((), tf.int32, "n")

    def body(i: Any, y: Any) -> Any:
        y = v1.while_loop(lambda j, z: j <= i, lambda j, z: [j + 1, z * 0.5 + x], [0, y])[1]
        y = v1.cond(tf.reduce_sum(y) > 0.0, lambda: -y, lambda: y + 1.0)
        return [i + 1, y]

    return v1.while_loop(lambda i, y: i < n, body, [0, x])[1]


@graph("v1_array", *TWO)
def _v1_array() -> Any:
    x = _input((None, 4))
    count = tf.shape(x)[0]
    given = tf.TensorArray(tf.float32, count, element_shape=[4]).unstack(x)
    made = tf.TensorArray(tf.float32, count, element_shape=[4])

    def body(i: Any, state: Any, out: Any) -> Any:
        state = tf.tanh(state + given.read(i))
        return [i + 1, state, out.write(i, state)]

    last = v1.while_loop(lambda i, *_: i < count, body, [0, tf.zeros([4]), made])
    return last[2].stack()


# -- writing ---------------------------------------------------------------------------------------


def _save_module(name: str, folder: Path) -> dict[str, bytes]:
    build, runs = MODULES[name]
    made = build()
    path = folder / name
    if isinstance(made, keras.Model):
        made.export(path, verbose=False)
    else:
        tf.saved_model.save(made, path, signatures=made.call.get_concrete_function())
    arrays = {}
    for number, run in enumerate(runs):
        loaded = tf.saved_model.load(path)  # anew, so that every run begins with what it holds
        found = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in run.items()})
        arrays.update(_named(number, run, {k: v.numpy() for k, v in found.items()}))
        for variable in getattr(loaded, "variables", ()) if name == "counter" else ():
            arrays[f"{number}:o:total"] = variable.numpy()
    files = {
        f"{name}/{p.relative_to(path)}": p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != "fingerprint.pb"
    }
    return {**files, f"{name}.npz": _packed(arrays)}


def _save_graph(name: str) -> dict[str, bytes]:
    build, runs, text = GRAPHS[name]
    v1.disable_control_flow_v2()
    made = tf.Graph()
    with made.as_default():
        result = tf.identity(build(), "result")
    v1.enable_control_flow_v2()
    arrays = {}
    with v1.Session(graph=made) as session:
        for number, run in enumerate(runs):
            found = session.run(result, {f"{k}:0": v for k, v in run.items()})
            arrays.update(_named(number, run, {"result": found}))
    message = made.as_graph_def()
    message = v1.graph_util.extract_sub_graph(message, ["result"])
    if text:
        return {f"{name}.pbtxt": str(message).encode(), f"{name}.npz": _packed(arrays)}
    return {f"{name}.pb": message.SerializeToString(), f"{name}.npz": _packed(arrays)}


def _save_variables(folder: Path) -> dict[str, bytes]:
    """A SavedModel of TensorFlow 1, whose variables are found by what restores them."""
    runs = TWO
    path = folder / "v1_saved"
    made = tf.Graph()
    with made.as_default():
        x = _input()
        w = v1.get_variable("w", initializer=f(4, 3), use_resource=True)
        b = v1.get_variable("b", initializer=f(3), use_resource=False)
        y = tf.matmul(x, w) + b
        with v1.Session(graph=made) as session:
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})
            arrays = {}
            for number, run in enumerate(runs):
                arrays.update(_named(number, run, {"y": session.run(y, {x: run["x"]})}))
    files = {
        f"v1_saved/{p.relative_to(path)}": p.read_bytes() for p in path.rglob("*") if p.is_file()
    }
    return {**files, "v1_saved.npz": _packed(arrays)}


def _named(number: int, run: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    inputs = {f"{number}:i:{k}": v for k, v in run.items()}
    return {**inputs, **{f"{number}:o:{k}": v for k, v in found.items()}}


def _packed(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def main(out: str, only: list[str]) -> None:
    """Write the archive."""
    with tarfile.open(out, "w:xz") as archive, tempfile.TemporaryDirectory() as folder:
        for name in [*MODULES, *GRAPHS, "v1_saved"]:
            if only and name not in only:
                continue
            if name in MODULES:
                files = _save_module(name, Path(folder))
            elif name in GRAPHS:
                files = _save_graph(name)
            else:
                files = _save_variables(Path(folder))
            for path, data in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            print(name, sum(map(len, files.values())))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
