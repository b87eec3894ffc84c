"""The gate: what licences let a teacher's outputs do, against the table of licences as it was read by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.distill.licence import (
    LicenceRefused,
    Use,
    Verdict,
    check_name,
    find_licence,
    notice_text,
    require,
    terms_of,
    terms_of_all,
)
from rlvr.distill.provenance import Provenance, ProvenanceError, TeacherRecord, provenance_file, write_provenance

ALLOW, OBLIGATIONS, ASK, BLOCK = Verdict.ALLOW, Verdict.OBLIGATIONS, Verdict.ASK, Verdict.BLOCK


@pytest.mark.parametrize(
    ("licence", "research", "commercial"),
    [
        ("llama2", BLOCK, BLOCK),
        ("llama3", BLOCK, BLOCK),
        ("llama3.1", OBLIGATIONS, OBLIGATIONS),
        ("llama3.2", OBLIGATIONS, OBLIGATIONS),
        ("llama3.3", OBLIGATIONS, OBLIGATIONS),
        ("llama4", OBLIGATIONS, OBLIGATIONS),
        ("gemma", OBLIGATIONS, OBLIGATIONS),
        ("apache-2.0", ALLOW, ALLOW),
        ("mit", ALLOW, ALLOW),
        ("qwen", OBLIGATIONS, OBLIGATIONS),
        ("qwen-research", OBLIGATIONS, BLOCK),
        ("tongyi-qianwen", BLOCK, BLOCK),
        ("deepseek", OBLIGATIONS, OBLIGATIONS),
        ("modified-mit", ALLOW, ALLOW),
        ("mrl", OBLIGATIONS, BLOCK),
        ("mnpl", OBLIGATIONS, BLOCK),
        ("tencent-hunyuan-community", BLOCK, BLOCK),
        ("openai-terms", BLOCK, BLOCK),
        ("gemini-api-terms", BLOCK, BLOCK),
        ("anthropic-terms", ASK, ASK),
        ("made-up-1.0", ASK, ASK),
    ],
)
def test_what_each_licence_lets_outputs_do(licence: str, research: Verdict, commercial: Verdict) -> None:
    found = find_licence(licence)
    assert (found.verdict_for(Use.RESEARCH), found.verdict_for(Use.COMMERCIAL)) == (research, commercial)
    assert found.clause and (found.source.startswith("https://") or licence == "made-up-1.0")


@pytest.mark.parametrize(
    ("teacher", "licences"),
    [
        ("Qwen/Qwen3-32B", {"apache-2.0"}),
        ("Qwen/Qwen2.5-7B-Instruct", {"apache-2.0"}),
        ("Qwen/Qwen2.5-72B-Instruct", {"qwen"}),
        ("Qwen/Qwen2.5-3B-Instruct", {"qwen-research"}),
        ("Qwen/Qwen-72B", {"tongyi-qianwen"}),
        ("deepseek-ai/DeepSeek-R1", {"mit"}),
        ("deepseek-ai/DeepSeek-V3.1", {"mit"}),
        ("deepseek-ai/DeepSeek-V3-Base", {"deepseek"}),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", {"mit", "llama3.1"}),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", {"mit", "llama3.3"}),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {"mit"}),
        ("meta-llama/Meta-Llama-3-8B-Instruct", {"llama3"}),
        ("meta-llama/Llama-3.3-70B-Instruct", {"llama3.3"}),
        ("meta-llama/Meta-Llama-3.1-8B", {"llama3.1"}),
        ("google/gemma-3-27b-it", {"gemma"}),
        ("google/gemma-4-31b", {"apache-2.0"}),
        ("moonshotai/Kimi-K2-Instruct", {"modified-mit"}),
        ("gpt-5", {"openai-terms"}),
        ("gemini-3-pro", {"gemini-api-terms"}),
        ("claude-opus-5", {"anthropic-terms"}),
    ],
)
def test_models_that_are_known_by_name(teacher: str, licences: set[str]) -> None:
    assert {licence.id for licence in terms_of(teacher).licences} == licences


def model(folder: Path, head: str | None) -> str:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if head is not None:
        (folder / "README.md").write_text(f"---\n{head}\n---\n# A model\n")
    return str(folder)


@pytest.mark.parametrize(
    ("head", "licences"),
    [
        ("license: apache-2.0", {"apache-2.0"}),
        ("license: other\nlicense_name: qwen-research\nlicense_link: LICENSE", {"qwen-research"}),
        ("license: other\nlicense_name: Tencent-License", {"tencent-hunyuan-community"}),
        ("license: [mit, cc-by-4.0]", {"mit", "cc-by-4.0"}),
        ("license: mit\nbase_model: meta-llama/Llama-3.1-8B", {"mit", "llama3.1"}),
        ("license: mit\nbase_model: [meta-llama/Llama-2-7b-hf]", {"mit", "llama2"}),
        ("license: weird-1.0", {"weird-1.0"}),
    ],
)
def test_a_folder_says_it_in_its_card(tmp_path: Path, head: str, licences: set[str]) -> None:
    terms = terms_of(model(tmp_path / "model", head))
    assert {licence.id for licence in terms.licences} == licences


@pytest.mark.parametrize("head", [None, "language: en", "license: other"])
def test_a_folder_that_says_nothing_asks(tmp_path: Path, head: str | None) -> None:
    teacher = model(tmp_path / "model", head)
    terms = terms_of(teacher)
    assert terms.verdict_for(Use.RESEARCH) is ASK
    with pytest.raises(LicenceRefused, match="--accept-license"):
        require([terms], Use.RESEARCH)
    require([terms], Use.RESEARCH, accepted=[teacher])


def test_a_card_that_cannot_be_read_is_no_licence(tmp_path: Path) -> None:
    with pytest.raises(LicenceRefused, match="not YAML"):
        terms_of(model(tmp_path / "model", "license: [mit"))


def test_a_folder_is_known_by_its_name_whatever_its_card_says(tmp_path: Path) -> None:
    terms = terms_of(model(tmp_path / "DeepSeek-R1-Distill-Llama-8B", "license: mit"))
    assert {licence.id for licence in terms.licences} == {"mit", "llama3.1"}


def test_what_is_blocked_cannot_be_accepted_but_other_terms_can_be_named() -> None:
    with pytest.raises(LicenceRefused, match=r"section 1\.b\.v"):
        require([terms_of("meta-llama/Llama-2-7b")], Use.RESEARCH, accepted=["llama2"])
    own = terms_of_all(["meta-llama/Llama-2-7b"], ["meta-llama/Llama-2-7b=our-contract"])
    with pytest.raises(LicenceRefused, match="our-contract"):
        require(own, Use.COMMERCIAL)
    require(own, Use.COMMERCIAL, accepted=["our-contract"])


def test_a_licence_is_given_to_a_teacher_of_the_list() -> None:
    with pytest.raises(LicenceRefused, match="expected TEACHER=ID"):
        terms_of_all(["a/b"], ["c/d=mit"])


def test_licences_follow_a_student_that_becomes_a_teacher(tmp_path: Path) -> None:
    """A student of Llama 3.1 stays under its conditions, even where its own card or its user says mit."""
    student = model(tmp_path / "student", "license: mit")
    record = TeacherRecord("meta-llama/Llama-3.1-8B", ("llama3.1",), "abc")
    write_provenance(Path(student), Provenance((record,), "distill sft", "commercial"))
    for terms in (terms_of(student), terms_of(student, given=["mit"])):
        assert {licence.id for licence in terms.licences} == {"mit", "llama3.1"}
        assert terms.verdict_for(Use.COMMERCIAL) is OBLIGATIONS


def test_a_runs_policy_has_the_licences_of_the_model_it_began_with(tmp_path: Path) -> None:
    policy = model(tmp_path / "policy", None)
    (tmp_path / "config.yaml").write_text("model: {name: google/gemma-3-1b-it}\n")
    assert [licence.id for licence in terms_of(policy).licences] == ["gemma"]


def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    student = Path(model(tmp_path / "student", "license: mit"))
    provenance_file(student).write_text('{"teachers": [')
    with pytest.raises(ProvenanceError, match="not a provenance record"):
        terms_of(str(student))


def test_a_name_must_begin_as_the_licences_say() -> None:
    llama = terms_of("meta-llama/Llama-3.1-8B").licences
    check_name("Llama-my-student", llama)
    check_name("anything", terms_of("Qwen/Qwen3-8B").licences)
    with pytest.raises(LicenceRefused, match="must begin with 'Llama'"):
        check_name("my-student", llama)


def test_the_notice_has_what_must_be_shown() -> None:
    text = notice_text([*terms_of("meta-llama/Llama-3.1-8B").licences, find_licence("mit"), find_licence("gemma")])
    assert "Built with Llama" in text and "ai.google.dev/gemma/terms" in text and "MIT" not in text
    assert notice_text([find_licence("mit")]) == ""


def test_the_command_says_clause_and_source_and_refuses_by_its_exit_code() -> None:
    done = CliRunner().invoke(app, ["license", "check", "Qwen/Qwen3-8B", "meta-llama/Llama-3.1-8B"])
    assert done.exit_code == 0
    assert "allow with obligations (commercial use)" in done.output and "not legal advice" in done.output
    assert "https://www.llama.com/llama3_1/license/" in done.output
    done = CliRunner().invoke(app, ["license", "check", "Qwen/Qwen3-8B", "mistralai/Mistral-Large-Instruct-2411"])
    assert done.exit_code == 1
    done = CliRunner().invoke(app, ["license", "check", "mistralai/Mistral-Large-Instruct-2411", "--use", "research"])
    assert done.exit_code == 0
