"""The teacher store: what it takes, what it forgets, and that no part of one is taken for a whole."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rlvr.distill.packed import LARGEST_ERROR, LEAST, RecordLayout
from rlvr.distill.store import StoredRow, StoreError, StoreHeader, StoreWriter, TeacherStore
from rlvr.types import ScoreRequest, TokenScores

HEADER = StoreHeader("teacher", "fingerprint", vocabulary=1000, k=8, temperature=1.0)


def likeliest(tokens: int, vocabulary: int, k: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k likeliest ids of random, peaked distributions, and their log-probabilities."""
    logits = np.random.default_rng(seed).gumbel(size=(tokens, vocabulary)) * 2
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    ids = np.argsort(-logprobs, 1)[:, :k]
    return ids, np.take_along_axis(logprobs, ids, 1)


@pytest.mark.parametrize(
    ("vocabulary", "k"), [(151_936, 32), (512, 32), (1000, 1), (7, 7), (32, 31), (65_537, 64), (1, 1)]
)
def test_what_is_packed_comes_back(vocabulary: int, k: int) -> None:
    ids, logprobs = likeliest(40, vocabulary, k)
    layout = RecordLayout(vocabulary, k)
    records = layout.pack(ids, logprobs)
    assert records.shape == (40, layout.bytes) and records.dtype == np.uint8
    ids_back, logprobs_back = layout.unpack(records)
    assert (np.diff(logprobs_back, axis=1) <= 0).all(), "the likeliest first"
    order, order_back = ids.argsort(1), ids_back.argsort(1)
    assert (np.take_along_axis(ids, order, 1) == np.take_along_axis(ids_back, order_back, 1)).all()
    before, after = np.take_along_axis(logprobs, order, 1), np.take_along_axis(logprobs_back, order_back, 1)
    assert np.abs(before - after)[before > LEAST].max() <= LARGEST_ERROR


def test_the_tail_comes_back_too() -> None:
    ids, logprobs = likeliest(200, 5000, 8)
    _, back = RecordLayout(5000, 8).unpack(RecordLayout(5000, 8).pack(ids, logprobs))
    tail, tail_back = 1 - np.exp(logprobs).sum(1), 1 - np.exp(back.astype(np.float64)).sum(1)
    assert (tail > 0.001).any()
    assert np.abs(np.log(tail_back[tail > 0.001] / tail[tail > 0.001])).max() <= LARGEST_ERROR + 1e-3


def test_bytes_of_a_token() -> None:
    """By hand: 32 ids of 151,936 are 32 x 12 low bits, 32 ones and 37 zeros; 33 numbers of 10 bits: 783 bits."""
    assert RecordLayout(151_936, 32).bytes == math.ceil((32 * 12 + 32 + 37 + 33 * 10) / 8) == 98


def test_hopeless_probabilities_are_kept_at_the_least() -> None:
    layout = RecordLayout(10, 2)
    ids, logprobs = layout.unpack(layout.pack(np.array([[3, 4]]), np.array([[math.log(0.999), -80.0]])))
    assert ids.tolist() == [[3, 4]] and logprobs[0, 1] == pytest.approx(LEAST, abs=LARGEST_ERROR)


@pytest.mark.parametrize(
    ("ids", "logprobs", "message"),
    [
        ([[1, 1]], [[-1.0, -2.0]], "must differ"),
        ([[1, 10]], [[-1.0, -2.0]], "lie below 10"),
        ([[1, 2]], [[-0.1, -0.1]], "add up to 1 at most"),
        ([[1, 2]], [[-0.1, -math.inf]], "finite"),
        ([[1, 2, 3]], [[-1.0, -2.0, -3.0]], r"\(tokens, 2\)"),
    ],
)
def test_what_is_no_distribution_is_refused(ids: list[list[int]], logprobs: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecordLayout(10, 2).pack(np.array(ids), np.array(logprobs))


# -------------------------------------------------------------------- the folder


def scored(row: int, places: int = 5) -> tuple[int, ScoreRequest, TokenScores]:
    ids, logprobs = likeliest(places, HEADER.vocabulary, HEADER.k, seed=row)
    request = ScoreRequest(tuple(range(row, row + places + 3)), first=3, top_k=HEADER.k)
    own = np.linspace(-1, -5, places, dtype=np.float32)
    return row, request, TokenScores(own, ids.astype(np.int32), logprobs.astype(np.float32), 0)


def finished(folder: Path) -> Path:
    writer = StoreWriter(folder, HEADER)
    writer.add([scored(0), scored(1, places=9)])
    writer.add([scored(7)])
    writer.finish()
    return folder


def test_a_store_gives_back_its_rows(tmp_path: Path) -> None:
    store = TeacherStore(finished(tmp_path / "store"))
    assert (store.header, store.rows) == (HEADER, 3)
    rows: list[StoredRow] = list(store)
    assert [row.row for row in rows] == [0, 1, 7]
    for row, (_, request, scores) in zip(rows, [scored(0), scored(1, places=9), scored(7)], strict=True):
        assert (row.token_ids, row.first) == (request.token_ids, request.first)
        order, order_back = scores.ids.argsort(1), row.scores.ids.argsort(1)  # equal ones may change places
        back = np.take_along_axis(row.scores.id_logprobs, order_back, 1)
        assert (np.take_along_axis(row.scores.ids, order_back, 1) == np.take_along_axis(scores.ids, order, 1)).all()
        assert np.abs(back - np.take_along_axis(scores.id_logprobs, order, 1)).max() <= LARGEST_ERROR
        assert np.abs(row.scores.logprobs - scores.logprobs).max() < 0.005


def test_a_capture_that_was_ended_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    StoreWriter(folder, HEADER).add([scored(0), scored(1)])
    with pytest.raises(StoreError, match="did not finish: run it again"):
        TeacherStore(folder)
    writer = StoreWriter(folder, HEADER)
    assert writer.rows == {0, 1}
    writer.add([scored(2)])
    writer.finish()
    assert [row.row for row in TeacherStore(folder)] == [0, 1, 2]


def test_two_captures_are_not_mixed(tmp_path: Path) -> None:
    other = StoreHeader("other teacher", "fingerprint", vocabulary=1000, k=8, temperature=1.0)
    StoreWriter(tmp_path / "begun", HEADER).add([scored(0)])
    with pytest.raises(StoreError, match="was begun with"):
        StoreWriter(tmp_path / "begun", other)
    with pytest.raises(StoreError, match="holds a finished store"):
        StoreWriter(finished(tmp_path / "store"), HEADER)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_told(tmp_path: Path, keep: int) -> None:
    part = finished(tmp_path / "store") / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"part-00001.* cut short"):
        TeacherStore(tmp_path / "store")
    (tmp_path / "store" / "store.json").unlink()
    with pytest.raises(StoreError, match=r"part-00001.*cut short"):
        StoreWriter(tmp_path / "store", HEADER)


def test_a_file_that_was_changed_is_told(tmp_path: Path) -> None:
    part = finished(tmp_path / "store") / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    _, _, scores = scored(0)
    place = content.find(HEADER.layout.pack(scores.ids, scores.id_logprobs).tobytes())
    assert place > 0
    content[place + 7] ^= 0xFF
    part.write_bytes(content)
    with pytest.raises(StoreError, match=r"part-00000.*damaged"):
        list(TeacherStore(tmp_path / "store"))


def test_a_missing_file_and_a_missing_store(tmp_path: Path) -> None:
    (finished(tmp_path / "store") / "part-00000.parquet").unlink()
    with pytest.raises(StoreError, match="0 bytes, expected"):
        TeacherStore(tmp_path / "store")
    with pytest.raises(StoreError, match="rlvr distill capture"):
        TeacherStore(tmp_path / "nothing")
