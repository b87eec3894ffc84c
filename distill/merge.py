"""`rlvr distill merge`: one model whose weights are the mean of several that were trained from the same one.

"Model soups" (arXiv 2203.05482): models that went different ways from one starting point often lie in one basin, where
the mean of their weights knows something of each. Nothing guarantees it: evaluate what comes out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlvr.distill.gate import CARD_FILE, NOTICE_FILE, Gate, card_of, leave_records
from rlvr.distill.licence import Use
from rlvr.distill.provenance import PROVENANCE_FILE, Provenance, merged, read_provenance
from rlvr.plugins import CommandError

_WEIGHTS = "*.safetensors"


class MergeError(CommandError):
    """Models that cannot be merged."""


def merge(models: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """Write the weighted mean of models to a new folder, in the form and number format of the first.

    `shares` are each model's, and are scaled to a sum of 1. One tensor of each is in memory at a time.
    Its card has the licences of all of them. What was distilled into them is on its record too, for the narrowest use
    that theirs were checked for. Raises MergeError, ProvenanceError and LicenceRefused, and leaves nothing then.
    """
    if len(models) < 2 or len(shares) != len(models) or min(shares) < 0 or sum(shares) <= 0:
        raise MergeError("merge: expected two models or more, and a share of at least 0 for each, not all 0")
    if out.exists():
        raise MergeError(f"{out}: exists already; name another folder")
    configs = [_config(model) for model in models]
    if any(config != configs[0] for config in configs[1:]):
        raise MergeError("merge: the models' config.json differ: only models of one architecture have a mean")
    places = [_places(model) for model in models]
    for model, place in zip(models[1:], places[1:], strict=True):
        odd = sorted({name for name in {*place, *places[0]} if _shape(place, name) != _shape(places[0], name)})
        if odd:
            raise MergeError(
                f"merge: {model} and {models[0]} do not have the same tensors and shapes: {', '.join(odd[:3])}"
            )
    records = [record for model in models if (record := read_provenance(model)) is not None]
    card = card_of(models, f"The mean of {len(models)} models' weights, by `rlvr distill merge`.")
    normed = [share / sum(shares) for share in shares]
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(models[0], partial, ignore=shutil.ignore_patterns(NOTICE_FILE, PROVENANCE_FILE, CARD_FILE))
    for file in sorted(partial.glob(_WEIGHTS)):
        names = [name for name, where in places[0].items() if where.file.name == file.name]
        save_file({name: _mean(name, places, normed) for name in names}, file, metadata={"format": "pt"})
    if card:
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
    if records:
        leave_records(partial, models[0], merged(records), "distill merge", _gate_of(records))
    partial.rename(out)


def _gate_of(records: Sequence[Provenance]) -> Gate:
    """What was checked and accepted for all of them."""
    use = Use.RESEARCH if any(record.use == Use.RESEARCH for record in records) else Use.COMMERCIAL
    accepted = dict.fromkeys(licence for record in records for licence in record.accepted)
    return Gate(use, accepted=tuple(accepted))


def _mean(name: str, places: Sequence[dict[str, _Place]], shares: Sequence[float]) -> Tensor:
    tensors = [_tensor(name, place[name].file) for place in places]
    parts = [share * tensor.double() for share, tensor in zip(shares, tensors, strict=True)]
    return torch.stack(parts).sum(0).to(tensors[0].dtype)


def _tensor(name: str, file: Path) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


@dataclass(frozen=True, slots=True)
class _Place:
    """In which file a tensor is."""

    file: Path
    shape: tuple[int, ...]


def _shape(places: dict[str, _Place], name: str) -> tuple[int, ...] | None:
    return places[name].shape if name in places else None


def _places(model: Path) -> dict[str, _Place]:
    """Of all tensors of a model, by name."""
    found: dict[str, _Place] = {}
    for file in sorted(model.glob(_WEIGHTS)):
        with safe_open(file, framework="pt") as opened:
            found |= {name: _Place(file, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()}  # noqa: SIM118
    if not found:
        raise MergeError(f"{model}: no folder with {_WEIGHTS} files (looked from {Path.cwd()})")
    return found


def _config(model: Path) -> dict[str, object]:
    file = model / "config.json"
    if not file.is_file():
        raise MergeError(f"{model}: the folder has no config.json; is it a Hugging Face folder?")
    config: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
