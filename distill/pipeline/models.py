"""The models that a recipe's policies go back to: by what stages begin with, through all that was trained of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlvr.config import ModelConfig
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.recipe import REFERENCE, RecipeError, Stage
from rlvr.distill.pipeline.verbs import VERBS
from rlvr.distill.signals import SignalKind
from rlvr.distill.tokenizers import TokenizerMismatch, refuse_mismatch
from rlvr.prepare import PreparationError, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCORED = ("distill opd", "distill capture")  # here a teacher reads the student's token ids
_POLICY = re.compile(REFERENCE.pattern + r"(?:/([\w-]+)/policy)?")  # what a stage leaves, or one peer of it


def began_with(place: Place, model: str) -> str | None:
    """The folder or hub name that a model goes back to, also through merges; None for what a command made."""
    reference = _POLICY.fullmatch(model)
    if reference is None:
        return model
    if reference[1] in place.recipe.inputs:
        return model.replace(f"${{{reference[1]}}}", str(place.output(reference[1])))
    before = _made_from(place.recipe.stages[reference[1]], reference[2])
    return None if before is None else began_with(place, before)


def check_models(place: Place) -> None:
    """See that the models are there, and that teachers speak their students' tokens: what else is found out late.

    Asks the network for the tokenizers of hub names that are not in its cache. Raises RecipeError.
    """
    loaded: dict[str, PreTrainedTokenizerBase] = {}
    wrong = [f"stages.{name}: {line}" for name in place.recipe.stages for line in _faults(place, name, loaded)]
    if wrong:
        raise RecipeError("the recipe cannot be run:\n" + "\n".join(f"  - {line}" for line in dict.fromkeys(wrong)))


def _faults(place: Place, name: str, loaded: dict[str, PreTrainedTokenizerBase]) -> Iterable[str]:
    stage = place.recipe.stages[name]
    verb = VERBS[stage.verb]
    made = [f"${{{name}}}/{peer}/policy" for peer in stage.settings["peers"]] if verb.has_peers else [f"${{{name}}}"]
    student, *others = [began_with(place, one) for one in made] if verb.has_settings else [None]
    if student is None:
        return
    try:
        ours = _tokenizer(student, loaded)
        for other in others:
            if other is not None:
                refuse_mismatch(ours, _tokenizer(other, loaded), other)
        if stage.verb not in _SCORED:
            return
        for model in _teachers(place, name):
            theirs = _tokenizer(model, loaded)
            if stage.options.get("signal") != SignalKind.SPANS:  # these compare text
                refuse_mismatch(ours, theirs, model)
    except (PreparationError, TokenizerMismatch) as error:
        yield str(error)


def _teachers(place: Place, name: str) -> Iterable[str]:
    """What a stage's teachers go back to."""
    for word in place.teachers(name):
        tokenizer = place.recipe.stages[name].options.get("tokenizer", word.name) if word.url else word.name
        model = began_with(place, str(tokenizer))
        if model is not None:
            yield model


def _tokenizer(model: str, loaded: dict[str, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    if model not in loaded:
        loaded[model] = load_tokenizer(model)
    return loaded[model]


def _made_from(stage: Stage, peer: str | None) -> str | None:
    """The model of a stage's settings, as the recipe names it; of a peer its own, of a merge the first."""
    if not stage.settings:
        return stage.arguments[0] if stage.arguments and VERBS[stage.verb].words else None
    own = stage.settings["peers"].get(peer, {}) if VERBS[stage.verb].has_peers else {}
    model = own.get("model", stage.settings.get("model"))
    name = model.get("name") if isinstance(model, dict) else model
    return None if name is None else ModelConfig(name=str(name)).name  # `tiny` is a folder
