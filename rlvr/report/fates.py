"""What the learner did with each token of an answer, as stretches of text that a page can colour."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer

from rlvr.report.sample import AnswerKey, Sample, Stretch
from rlvr.rollout_log import read_fated_tokens
from rlvr.run_folder import RunFolder


def stretches_of(run: RunFolder, model: str | None, sample: Sample) -> dict[AnswerKey, list[Stretch]]:
    """Of the sampled answers that were trained; none where the model's tokenizer is not at hand as a file."""
    tokenizer = _tokenizer(run, model)
    if tokenizer is None:
        return {}
    found: dict[AnswerKey, list[Stretch]] = {}
    wanted = {(group[0].step, group[0].group_id) for group in sample.groups}
    for step in sample.steps:
        places: dict[int, int] = {}
        for row in read_fated_tokens(run.rollouts(step)):
            place = places[row.group_id] = places.get(row.group_id, -1) + 1
            if row.fates is not None and (step, row.group_id) in wanted:
                found[step, row.group_id, place] = _stretches(row.token_ids, row.fates, tokenizer)
    return found


def _stretches(token_ids: list[int], fates: list[str | None], tokenizer: Tokenizer) -> list[Stretch]:
    runs = [
        (fate, [token for _, token in run])
        for fate, run in groupby(zip(fates, token_ids, strict=True), key=lambda fated: fated[0])
    ]
    if len(runs) == 1:
        return [Stretch(None, runs[0][0], len(token_ids))]
    return [Stretch(tokenizer.decode(ids, skip_special_tokens=False), fate, len(ids)) for fate, ids in runs]


def _tokenizer(run: RunFolder, model: str | None) -> Tokenizer | None:
    """Of the trained policy, else of the model that the run began with where that is a folder."""
    folders = [run.policy, *([Path(model)] if model else [])]
    file = next((folder / "tokenizer.json" for folder in folders if (folder / "tokenizer.json").is_file()), None)
    return Tokenizer.from_file(str(file)) if file is not None else None
