"""Whether an answer is JSON that a schema allows."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from rlvr.reward_function import reward
from rlvr.rewards.answer_text import answer_text
from rlvr.types import Score

_FENCE = re.compile(r"^[ \t]*```[ \t]*(?:json5?)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)


@reward(name="json_schema")
def json_schema(completion: str, schema: dict[str, Any] | bool | str) -> Score:
    """1.0 where the answer is JSON that fits `schema`, else 0.0 with the first violation as detail.

    The JSON is the last fenced block of the answer, else all of it. `schema` is a tree or its JSON text, of any
    draft that it names in `$schema` (2020-12 where it names none); it is never fetched from elsewhere. A schema may
    hold patterns that take for ever, so this runs in a process that is killed at the deadline. Raises
    jsonschema.SchemaError where the schema is none.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    tree = json.loads(schema) if isinstance(schema, str) else schema
    validator_class = validator_for(tree, default=Draft202012Validator)
    validator_class.check_schema(tree)
    try:
        document = json_of(completion)
        error = next(iter(validator_class(tree, registry=Registry()).iter_errors(document)), None)
    except ValueError as problem:
        return Score(0.0, detail=f"no JSON: {problem}")
    except RecursionError:
        return Score(0.0, detail="nested too deep to be checked")
    if error is None:
        return Score(1.0)
    return Score(0.0, detail=f"{error.json_path}: {error.message[:200]}")


def json_of(completion: str) -> Any:
    """The JSON in an answer. Raises ValueError where there is none; NaN and Infinity are no JSON."""
    answer = answer_text(completion)
    if answer is None:
        raise ValueError("the reasoning never ended")
    fenced = _FENCE.findall(answer)
    return json.loads(fenced[-1] if fenced else answer, parse_constant=_refuse, parse_float=_finite)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is beyond a float")
    return number
