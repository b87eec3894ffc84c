"""Rows into micro-batches: grids of tokens under a budget, in which no row sees another.

A grid has B lines of T tokens, and a line holds several rows behind one another. What keeps them apart depends on
the model, so there are three layouts:

- SHARED: rows of a group that begin with the same tokens keep one copy of them, and see that copy and themselves.
  Spans say so to our attention, and a mask [B, 1, T, T] to any other. Right for models whose layers are all full
  attention.
- PACKED: position ids begin again at 0 for each row, and the attention mask and the cache are absent: the one form
  in which transformers tells packed rows apart. With a mask of ones or with a cache it mixes them, silently.
- ALONE: one row a line. Right for every causal model, also for those that carry a state along the line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvr.routing import UNRECORDED
from rlvr.types import Row


class Layout(StrEnum):
    """How rows share a line."""

    SHARED = "shared"
    PACKED = "packed"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """What decides the form of the grids.

    `token_budget` bounds B * T, and the longest row. `grid_tokens` is where a grid stops growing, because a larger one
    would not be faster. `long_lines` is for attention that skips what a line's rows do not see
    (flash attention): a line may then be as long as the budget. Otherwise lines stay about as long as the longest
    row, because dense attention costs T squared a line. `hidden_size` weighs that cost against the other layers'.
    """

    layout: Layout
    token_budget: int
    grid_tokens: int
    long_lines: bool
    hidden_size: int


@dataclass(frozen=True, slots=True)
class Span:
    """Stretches of a line: each of the queries sees those of the keys that do not come after it."""

    line: int
    queries: slice
    keys: slice


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A grid [B, T], and where its N trained tokens are predicted.

    `read` [N] are places in the grid, flattened: the hidden state there predicts `targets` [N]. `tokens` [N] are
    the tokens' indices among all trained tokens of the step, row after row. `lengths` [B] are the lines', after which
    there is padding. `spans` are all that tokens see of each other, and `mask`, bool [B, 1, T, T], says the same; both
    are absent where position ids say it. `experts`, int16 [B * T, layers, top_k], are there where a row brings its own:
    UNRECORDED where it does not, and in padding.
    """

    token_ids: Tensor
    position_ids: Tensor
    lengths: Tensor
    spans: tuple[Span, ...] | None
    mask: Tensor | None
    read: Tensor
    targets: Tensor
    tokens: Tensor
    experts: Tensor | None = None

    def to(self, device: torch.device) -> MicroBatch:
        return replace(
            self,
            token_ids=self.token_ids.to(device),
            position_ids=self.position_ids.to(device),
            lengths=self.lengths.to(device),
            mask=None if self.mask is None else self.mask.to(device),
            read=self.read.to(device),
            targets=self.targets.to(device),
            tokens=self.tokens.to(device),
            experts=None if self.experts is None else self.experts.to(device),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that stand together in a line: `prefix` tokens that all begin with, then the rest of each."""

    rows: tuple[int, ...]
    prefix: int
    rests: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.prefix + sum(self.rests)

    def cost(self, hidden_size: int) -> float:
        """In units of what one token takes in a layer's matrices, 24 h^2 operations.

        Attention has 4 h for each pair of tokens of which one sees the other, and is slower by 4 (measured).
        """
        seen = self.prefix**2 / 2 + sum(rest * (self.prefix + rest / 2) for rest in self.rests)
        return self.length + seen * 2 / (3 * hidden_size)


def pack(rows: Sequence[Row], plan: PackingPlan) -> Iterator[MicroBatch]:
    """Cut rows into micro-batches. Each row is in exactly one, and whole.

    Raises ValueError for a row that is longer than the budget, and for one whose first token is trained: nothing
    predicts it.
    """
    first_token = [0, *accumulate(sum(row.trained) for row in rows)]
    for lines in cut(rows, plan):
        yield _grid(rows, lines, first_token, plan.layout)


def cut(rows: Sequence[Row], plan: PackingPlan) -> list[list[list[Block]]]:
    """The micro-batches of `pack`, each as its lines of blocks."""
    for row in rows:
        _check(row, plan.token_budget)
    blocks = blocks_of(rows, plan)
    capacity = max((block.length for block in blocks), default=0)
    if plan.long_lines and plan.layout is Layout.PACKED:
        capacity = plan.token_budget
    return list(_grids(_lines(blocks, 0 if plan.layout is Layout.ALONE else capacity), plan.grid_tokens))


def blocks_of(rows: Sequence[Row], plan: PackingPlan) -> list[Block]:
    """What stands together in a line and is never parted: rows with a common prefix, or one row."""
    if plan.layout is Layout.SHARED:
        return _shared_blocks(rows, plan.token_budget)
    return [Block((index,), 0, (len(row),)) for index, row in enumerate(rows)]


def _check(row: Row, token_budget: int) -> None:
    if len(row) > token_budget:
        raise ValueError(
            f"a row of group {row.group_id} has {len(row)} tokens, more than learner.token_budget={token_budget}; "
            f"raise it to {len(row)} or more"
        )
    if row.trained and row.trained[0]:
        raise ValueError(f"a row of group {row.group_id} trains its first token, which nothing comes before")


def _shared_blocks(rows: Sequence[Row], token_budget: int) -> list[Block]:
    """Each group's rows, in as few blocks as the budget allows: every further one computes the prompt again."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.group_id].append(index)
    blocks = []
    for members in groups.values():
        prefix = _common_prefix([rows[i].token_ids for i in members])
        longest_rest = max(len(rows[i]) for i in members) - prefix
        count = max(1, (token_budget - prefix) // max(1, longest_rest))
        # As even as can be: 8 rows at most 5 a line make 4 and 4.
        parts = -(-len(members) // count)
        cuts = [len(members) * part // parts for part in range(parts + 1)]
        for start, end in pairwise(cuts):
            part = members[start:end]
            shared = prefix if len(part) > 1 else 0
            blocks.append(Block(tuple(part), shared, tuple(len(rows[i]) - shared for i in part)))
    return blocks


def _common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


def _lines(blocks: Sequence[Block], capacity: int) -> list[list[Block]]:
    """First fit, longest first. A block that is longer than the capacity has a line to itself."""
    lines: list[list[Block]] = []
    room: list[int] = []
    for block in sorted(blocks, key=lambda b: b.length, reverse=True):
        place = next((i for i, free in enumerate(room) if free >= block.length), None)
        if place is None:
            lines.append([block])
            room.append(capacity - block.length)
        else:
            lines[place].append(block)
            room[place] -= block.length
    return lines


def _grids(lines: list[list[Block]], grid_tokens: int) -> Iterator[list[list[Block]]]:
    """Lines of like length together, as many as a grid holds at the length of the longest, and one at least."""
    lines = sorted(lines, key=_length, reverse=True)
    while lines:
        count = max(1, grid_tokens // _length(lines[0]))
        yield lines[:count]
        lines = lines[count:]


def _length(line: list[Block]) -> int:
    return sum(block.length for block in line)


def _grid(rows: Sequence[Row], lines: list[list[Block]], first_token: list[int], layout: Layout) -> MicroBatch:
    width = _length(lines[0])
    token_ids: list[list[int]] = []
    positions: list[list[int]] = []
    spans: list[Span] = []
    read: list[int] = []
    targets: list[int] = []
    tokens: list[int] = []
    experts = _unrecorded(rows, lines, width)
    for line_number, line in enumerate(lines):
        base = line_number * width
        ids: list[int] = []
        position: list[int] = []
        for block in line:
            start = len(ids)
            ids += rows[block.rows[0]].token_ids[: block.prefix]
            _place_experts(experts, base + start, rows[block.rows[0]], slice(block.prefix))
            position += range(block.prefix)
            spans += _spans(line_number, start, block)
            for index in block.rows:
                row = rows[index]
                # Where token t of the row stands, for t from the prefix on.
                shift = len(ids) - block.prefix
                _place_experts(experts, base + len(ids), row, slice(block.prefix, None))
                ids += row.token_ids[block.prefix :]
                position += range(block.prefix, len(row))
                trained = [t for t, wanted in enumerate(row.trained) if wanted]
                read += [base + (t - 1 + shift if t > block.prefix else t - 1 + start) for t in trained]
                targets += [row.token_ids[t] for t in trained]
                tokens += range(first_token[index], first_token[index] + len(trained))
        padding = width - len(ids)
        token_ids.append(ids + [0] * padding)
        positions.append(position + list(range(padding)))
    return MicroBatch(
        token_ids=torch.tensor(token_ids),
        position_ids=torch.tensor(positions),
        lengths=torch.tensor([_length(line) for line in lines]),
        spans=tuple(spans) if layout is Layout.SHARED else None,
        mask=_mask(spans, len(lines), width) if layout is Layout.SHARED else None,
        read=torch.tensor(read, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        tokens=torch.tensor(tokens, dtype=torch.long),
        experts=None if experts is None else torch.from_numpy(experts),
    )


def _unrecorded(rows: Sequence[Row], lines: list[list[Block]], width: int) -> NDArray[np.int16] | None:
    """Room for the experts of a grid's tokens; None where no row of it brings any."""
    of_rows = (rows[index].experts for line in lines for block in line for index in block.rows)
    shapes = {experts.shape[1:] for experts in of_rows if experts is not None}
    if not shapes:
        return None
    (shape,) = shapes
    return np.full((len(lines) * width, *shape), UNRECORDED, dtype=np.int16)


def _place_experts(experts: NDArray[np.int16] | None, place: int, row: Row, tokens: slice) -> None:
    """Put those of a stretch of a row where its first token stands in the grid, flattened."""
    if experts is not None and row.experts is not None:
        recorded = row.experts[tokens]
        experts[place : place + len(recorded)] = recorded


def _spans(line: int, start: int, block: Block) -> Iterator[Span]:
    """What is seen in a block that begins at `start`: by the prefix itself, by rows the prefix, by each row itself."""
    prefix = slice(start, start + block.prefix)
    if block.prefix:
        yield Span(line, prefix, prefix)
        yield Span(line, slice(prefix.stop, start + block.length), prefix)
    for end, rest in zip(accumulate(block.rests, initial=prefix.stop), block.rests, strict=False):
        row = slice(end, end + rest)
        if rest:
            yield Span(line, row, row)


def _mask(spans: Sequence[Span], lines: int, width: int) -> Tensor:
    """Who sees whom, bool [B, 1, T, T]. Padding sees itself."""
    mask = torch.eye(width, dtype=torch.bool).repeat(lines, 1, 1, 1)
    for span in spans:
        seen = mask[span.line, 0, span.queries, span.keys]
        seen |= torch.ones(seen.shape, dtype=torch.bool).tril(span.queries.start - span.keys.start)
    return mask
