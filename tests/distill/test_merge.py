"""The mean of models, against numbers written here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.distill.gate import export
from rlvr.distill.licence import terms_of
from rlvr.distill.merge import MergeError, merge
from rlvr.distill.provenance import Provenance, ProvenanceError, TeacherRecord, read_provenance, write_provenance


def model(folder: Path, values: dict[str, list[float]], hidden: int = 2, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": hidden, "_name_or_path": folder.name}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({name: torch.tensor(v, dtype=dtype) for name, v in values.items()}, folder / "model.safetensors")
    return folder


def test_weights_are_the_weighted_mean(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", {"w": [1.0, 2.0]}), model(tmp_path / "b", {"w": [5.0, -2.0]})
    merge([a, b], [3, 1], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["w"].tolist() == [2.0, 1.0]
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_bfloat16_stays_and_is_rounded_once(tmp_path: Path) -> None:
    a = model(tmp_path / "a", {"w": [1.0]}, dtype=torch.bfloat16)
    b = model(tmp_path / "b", {"w": [1.0078125]}, dtype=torch.bfloat16)  # the next number after 1
    merge([a, b], [1, 1], tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")["w"]
    assert merged.dtype == torch.bfloat16 and merged.item() == 1.0  # 1.00390625, a tie, goes to the even one


def test_what_the_models_were_made_from_and_for_is_on_record(tmp_path: Path) -> None:
    models = [model(tmp_path / name, {"w": [1.0]}) for name in "abc"]
    one, other = TeacherRecord("one", ("mit",), "x"), TeacherRecord("other", ("llama3.1",), "x")
    write_provenance(models[0], Provenance((one,), "distill opd", "commercial", ("mit",)))
    write_provenance(models[2], Provenance((other,), "distill sft", "research", ("llama3.1",)))
    merge(models, [1, 1, 1], tmp_path / "out")
    record = read_provenance(tmp_path / "out")
    assert record is not None
    assert record.teachers == (one, other)
    assert (record.made_by, record.use, record.accepted) == ("distill merge", "research", ("mit", "llama3.1"))


def test_a_merge_of_models_that_nothing_was_distilled_into_has_no_record(tmp_path: Path) -> None:
    merge([model(tmp_path / name, {"w": [1.0]}) for name in "ab"], [1, 1], tmp_path / "out")
    assert read_provenance(tmp_path / "out") is None


def licences_of(folder: Path) -> set[str]:
    return {licence.id for licence in terms_of(str(folder)).licences}


def test_a_merge_has_the_licences_of_all_its_models(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", {"w": [1.0]}), model(tmp_path / "b", {"w": [1.0]})
    (a / "README.md").write_text("---\nlicense: mit\n---\n")
    (b / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\n---\n")
    merge([a, b], [1, 1], tmp_path / "out")
    assert licences_of(tmp_path / "out") == {"mit", "llama3.1"}


def test_a_merge_with_a_model_of_unknown_licence_is_of_unknown_licence(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", {"w": [1.0]}), model(tmp_path / "b", {"w": [1.0]})
    (a / "README.md").write_text("---\nlicense: mit\n---\n")
    merge([a, b], [1, 1], tmp_path / "out")
    assert licences_of(tmp_path / "out") == {str(tmp_path / "out")}


def test_an_exported_policy_keeps_the_licence_of_what_its_run_began_with(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: {name: Qwen/Qwen3-8B}\n")
    policy = model(tmp_path / "run" / "policy", {"w": [1.0]})
    export(policy, tmp_path / "out")
    assert licences_of(tmp_path / "out") == licences_of(policy) == {"apache-2.0"}


def test_a_merge_that_cannot_be_recorded_leaves_nothing(tmp_path: Path) -> None:
    models = [model(tmp_path / name, {"w": [1.0]}) for name in "ab"]
    (models[1] / "provenance.json").write_text("{")
    with pytest.raises(ProvenanceError):
        merge(models, [1, 1], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("other", "shares", "message"),
    [
        ({"values": {"v": [1.0, 1.0]}}, [1, 1], "same tensors and shapes: v, w"),
        ({"values": {"w": [1.0, 1.0]}, "hidden": 3}, [1, 1], "config.json differ"),
        ({"values": {"w": [1.0]}}, [1, 1], "same tensors and shapes: w"),
        ({"values": {"w": [1.0, 1.0]}}, [1], "a share of at least 0 for each"),
        ({"values": {"w": [1.0, 1.0]}}, [0, 0], "not all 0"),
    ],
)
def test_models_without_a_mean_are_refused_and_leave_nothing(
    tmp_path: Path, other: dict[str, object], shares: list[float], message: str
) -> None:
    a, b = model(tmp_path / "a", {"w": [1.0, 2.0]}), model(tmp_path / "b", **other)  # type: ignore[arg-type]
    with pytest.raises(MergeError, match=message):
        merge([a, b], shares, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
