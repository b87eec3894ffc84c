"""What a teacher said of rows of tokens, on disk: asked once, read as often as a student is trained.

A store is a folder of Parquet files, one row a sequence, with the packed records of its scored tokens. A file is whole
or absent. `store.json` has the size and checksum of each, and is written last: without it the capture did not finish,
and goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlvr.distill.packed import RecordLayout
from rlvr.files import replacing
from rlvr.plugins import CommandError
from rlvr.types import ScoreRequest, TokenScores

_INDEX = "store.json"
_FORMAT = 1
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("token_ids", pa.list_(pa.int32())),
        ("first", pa.int32()),
        ("logprobs", pa.large_binary()),  # of the tokens themselves, float16
        ("records", pa.large_binary()),  # of the likeliest ids, packed
    ]
)


class StoreError(CommandError):
    """A teacher store that cannot be read, is not whole, or is of something else."""


@dataclass(frozen=True, slots=True)
class StoreHeader:
    """What a store is of: whoever trains with it must use the same tokenizer and temperature."""

    teacher: str
    tokenizer: str  # fingerprint
    vocabulary: int
    k: int
    temperature: float

    @property
    def layout(self) -> RecordLayout:
        return RecordLayout(self.vocabulary, self.k)


@dataclass(frozen=True, slots=True, eq=False)
class StoredRow:
    """One sequence, its number among the rows that were captured, and what the teacher said from token `first` on."""

    row: int
    token_ids: tuple[int, ...]
    first: int
    scores: TokenScores


class StoreWriter:
    """Adds files to a store. Rows that are there already, from a capture that was ended, are known by `rows`."""

    def __init__(self, folder: Path, header: StoreHeader) -> None:
        """Raises StoreError for a folder that holds another store, or one that is finished."""
        if (folder / _INDEX).exists():
            raise StoreError(f"{folder}: holds a finished store; name another folder, or remove it")
        self._folder = folder
        self._header = header
        self._parts = _parts(folder)
        for part in self._parts:
            if (found := _header_of(part)) != header:
                raise StoreError(
                    f"{folder}: was begun with {found}, and this capture has {header}: name another folder"
                )
        self.rows = {row for part in self._parts for row in _table(part, ["row"])["row"].to_pylist()}

    def add(self, rows: Sequence[tuple[int, ScoreRequest, TokenScores]]) -> None:
        """One file more: each sequence with its number, as it was asked about, and what the teacher said."""
        layout = self._header.layout
        for _, request, _ in rows:
            if request.top_k != self._header.k or request.temperature != self._header.temperature:
                raise ValueError(f"the store holds {self._header}, and was given {request.top_k} ids")
        table = pa.table(
            {
                "row": [row for row, _, _ in rows],
                "token_ids": [list(request.token_ids) for _, request, _ in rows],
                "first": [request.first for _, request, _ in rows],
                "logprobs": [scores.logprobs.astype(np.float16).tobytes() for _, _, scores in rows],
                "records": [layout.pack(scores.ids, scores.id_logprobs).tobytes() for _, _, scores in rows],
            },
            _SCHEMA.with_metadata({"store": json.dumps(dataclasses.asdict(self._header) | {"format": _FORMAT})}),
        )
        part = self._folder / f"part-{len(self._parts):05d}.parquet"
        with replacing(part) as partial:
            # Packed records look random: nothing but the token ids would become smaller by compression.
            compression = dict.fromkeys(["token_ids.list.element", "row", "first"], "zstd")
            compression |= {"logprobs": "none", "records": "none"}
            pq.write_table(table, partial, compression=compression, use_dictionary=False)
        self._parts.append(part)
        self.rows |= {row for row, _, _ in rows}

    def finish(self) -> None:
        """The store is whole."""
        parts = {part.name: {"bytes": part.stat().st_size, "crc32": _checksum(part)} for part in self._parts}
        index = {"format": _FORMAT, "header": dataclasses.asdict(self._header), "parts": parts, "rows": len(self.rows)}
        with replacing(self._folder / _INDEX) as partial:
            partial.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


class TeacherStore:
    """A finished store. Raises StoreError where it is not whole."""

    def __init__(self, folder: Path) -> None:
        index = folder / _INDEX
        if not index.is_file():
            begun = (
                "its capture did not finish: run it again, it goes on where it stopped"
                if _parts(folder)
                else (f"expected a folder made by `rlvr distill capture` (looked from {Path.cwd()})")
            )
            raise StoreError(f"{folder}: no finished teacher store; {begun}")
        try:
            read = json.loads(index.read_text(encoding="utf-8"))
            self.header = StoreHeader(**read["header"])
            parts: dict[str, dict[str, int]] = read["parts"]
            self.rows: int = read["rows"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{index}: not the index of a teacher store: {error}") from None
        self._parts = {folder / name: facts["crc32"] for name, facts in parts.items()}
        for part in self._parts:
            found, expected = part.stat().st_size if part.is_file() else 0, parts[part.name]["bytes"]
            if found != expected:
                raise StoreError(f"{part}: {found} bytes, expected {expected}: it was cut short or changed")

    def __iter__(self) -> Iterator[StoredRow]:
        """The rows, file by file."""
        layout = self.header.layout
        for part, checksum in self._parts.items():
            if _checksum(part) != checksum:
                raise StoreError(f"{part}: damaged, it is not what was written")
            for row in _table(part, _SCHEMA.names).to_pylist():
                token_ids, first = tuple(row["token_ids"]), row["first"]
                records = np.frombuffer(row["records"], np.uint8)
                if records.size != (len(token_ids) - first) * layout.bytes:
                    raise StoreError(f"{part}: row {row['row']} has {records.size} bytes of records, too few or many")
                own = np.frombuffer(row["logprobs"], np.float16).astype(np.float32)
                scores = TokenScores(own, *layout.unpack(records.reshape(-1, layout.bytes)), version=0)
                yield StoredRow(row["row"], token_ids, first, scores)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def _checksum(part: Path) -> int:
    checksum = 0
    with part.open("rb") as file:
        while piece := file.read(2**24):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _header_of(part: Path) -> StoreHeader:
    metadata = _open(part).schema_arrow.metadata or {}
    if b"store" not in metadata:
        raise StoreError(f"{part}: not a file of a teacher store")
    header = json.loads(metadata[b"store"])
    if header.pop("format") != _FORMAT:
        raise StoreError(f"{part}: of another format than {_FORMAT}, which this release reads")
    return StoreHeader(**header)


def _table(part: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return _open(part).read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{part}: damaged: {error}") from None


def _open(part: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(part)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{part}: cannot be read, it was cut short or is no Parquet file: {error}") from None
