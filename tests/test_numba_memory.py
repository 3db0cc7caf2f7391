"""The arena, and the cache of kernel objects."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_ir.backends.numba.codegen.cache import Store
from lepton_ir.backends.numba.constants import aligned
from lepton_ir.backends.numba.memory import align, assign
from lepton_ir.backends.numba.plan import Buffer

LIFETIMES = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 6)), max_size=30
)


@given(LIFETIMES)
def test_buffers_that_live_at_the_same_time_never_overlap(lifetimes):
    buffers = [Buffer(n, first=a, last=a + d) for n, a, d in lifetimes]
    size = assign(buffers)
    for i, a in enumerate(buffers):
        assert a.offset % 64 == 0
        assert a.offset + align(a.nbytes) <= size
        for b in buffers[:i]:
            if a.first <= b.last and b.first <= a.last:
                apart = a.offset + align(a.nbytes) <= b.offset
                assert apart or b.offset + align(b.nbytes) <= a.offset


@pytest.mark.parametrize("nbytes", [1 << 16, (1 << 20) - 64, 512 * 3072 * 4, 100_001])
def test_large_buffers_side_by_side_start_at_other_places_of_a_page(nbytes):
    buffers = [Buffer(nbytes, first=0, last=1) for _ in range(3)]
    assign(buffers)
    places = sorted(b.offset % 4096 for b in buffers)
    assert min(b - a for a, b in itertools.pairwise(places)) >= 1024
    starts = [aligned(nbytes).ctypes.data % 4096 for _ in range(3)]
    assert len(set(starts)) == 1
    assert starts[0] >= 1024


def test_a_chain_needs_two_buffers():
    buffers = [Buffer(1000, first=i, last=i + 1) for i in range(10)]
    assert assign(buffers) == 2 * align(1000)


def test_a_result_in_place_shares_its_operands_memory():
    first, second = Buffer(1000, first=0, last=1), Buffer(1000, first=1, last=2)
    second.parent = first
    assert assign([first, second]) == align(1000)
    assert first.offset == second.offset


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "cache"))


def test_a_blob_comes_back(store):
    assert store.get("k") is None
    store.put("k", b"code")
    assert store.get("k") == b"code"


@pytest.mark.parametrize("cut", [0, 5, 20, 47, 50, -1])
def test_a_torn_file_is_as_good_as_absent(store, cut):
    store.put("k", b"code")
    path = os.path.join(store.path, "k")
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data[:cut])
    assert store.get("k") is None


def test_a_damaged_file_is_as_good_as_absent(store):
    store.put("k", b"code")
    path = os.path.join(store.path, "k")
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert store.get("k") is None


def test_the_cache_is_bounded(store):
    store.limit = 10_000
    for i in range(200):
        store.put(f"k{i}", bytes(1000))
    store.prune()
    total = sum(e.stat().st_size for e in os.scandir(store.path))
    assert 0 < total <= store.limit


def test_processes_do_not_all_look_at_the_whole_cache(store, monkeypatch):
    looks = []
    monkeypatch.setattr(Store, "prune", lambda self, prune=Store.prune: looks.append(prune(self)))
    for _ in range(3):
        Store(store.path).put("k", b"code")
    assert len(looks) == 1
    os.utime(store.path + ".looked", (1e9, 1e9))
    Store(store.path).put("k", b"code")
    assert len(looks) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(str(tmp_path / "file"))
    store.put("k", b"code")
    assert store.get("k") is None
