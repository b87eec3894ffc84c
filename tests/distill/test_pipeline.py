"""Recipes: what is refused, what is done once, and what a kill leaves. Stages here are small programs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from rlvr.checkpoint import CheckpointState
from rlvr.demo import BASE
from rlvr.distill.pipeline.checks import check_stages
from rlvr.distill.pipeline.cost import bounds
from rlvr.distill.pipeline.dry_run import State, outlook
from rlvr.distill.pipeline.ledger import Evaluation
from rlvr.distill.pipeline.models import began_with, check_models
from rlvr.distill.pipeline.place import Place
from rlvr.distill.pipeline.recipe import Bound, RecipeError, read_recipe
from rlvr.distill.pipeline.regression_gate import hold
from rlvr.distill.pipeline.runner import newest, run_recipe
from rlvr.distill.pipeline.verbs import VERBS

# Appends its name to a file, so that a test can count how often it ran; then writes the upper-cased input.
PROGRAM = """
import pathlib, sys
name, source, out, count = sys.argv[1:]
with open(count, "a") as file: file.write(name + "\\n")
pathlib.Path(out).write_text(pathlib.Path(source).read_text().upper() + name)
"""


def write(folder: Path, tree: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


def program(folder: Path, name: str, source: str) -> dict[str, object]:
    words = [sys.executable, "-c", PROGRAM, name, f"${{{source}}}", "${out}", str(folder / "ran.txt")]
    return {"verb": "command", "output": "out", "arguments": words}


def chain(folder: Path) -> dict[str, object]:
    """`a` is made of the input, `b` of `a`, `c` of the input."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.txt").write_text("some words ")
    stages = {"b": program(folder, "b", "a"), "a": program(folder, "a", "words"), "c": program(folder, "c", "words")}
    return {"name": "chain", "inputs": {"words": "words.txt"}, "stages": stages}


def run(folder: Path, *start: str) -> list[str]:
    """What was told. `start` are the stages of --from."""
    told: list[str] = []
    run_recipe(Place(read_recipe(folder / "recipe.yaml"), folder / "out"), start, told.append)
    return told


def ran(folder: Path) -> list[str]:
    return (folder / "ran.txt").read_text().split()


def test_stages_run_once_each_after_what_it_is_made_of(tmp_path: Path) -> None:
    write(tmp_path, chain(tmp_path))
    run(tmp_path)
    assert ran(tmp_path) == ["a", "b", "c"]
    assert (tmp_path / "out" / "b" / "out").read_text() == "SOME WORDS Ab"
    assert all("done before" in line for line in run(tmp_path))
    assert ran(tmp_path) == ["a", "b", "c"]


def test_from_runs_a_stage_and_what_is_made_of_it_and_keeps_the_old(tmp_path: Path) -> None:
    write(tmp_path, chain(tmp_path))
    run(tmp_path)
    run(tmp_path, "a")
    assert ran(tmp_path) == ["a", "b", "c", "a", "b"]
    assert (tmp_path / "out" / "replaced" / "b-1" / "out").read_text() == "SOME WORDS Ab"


def test_a_changed_input_is_refused_and_named(tmp_path: Path) -> None:
    write(tmp_path, chain(tmp_path))
    run(tmp_path)
    (tmp_path / "words.txt").write_text("other words ")
    both = r"stage a .* another one:\n  - arguments\[4\]: .*words.* has changed\nstage c .*\n.*\n.*--from a --from c"
    with pytest.raises(RecipeError, match=both):
        run(tmp_path)
    with pytest.raises(RecipeError, match=r"^stage c .* another one"):
        run(tmp_path, "a")
    assert ran(tmp_path) == ["a", "b", "c"]
    assert not (tmp_path / "out" / "replaced").exists()
    run(tmp_path, "a", "c")
    assert ran(tmp_path) == ["a", "b", "c", "a", "b", "c"]
    assert (tmp_path / "out" / "b" / "out").read_text() == "OTHER WORDS Ab"


def test_a_change_is_refused_before_what_is_not_done_is_run(tmp_path: Path) -> None:
    tree = chain(tmp_path)
    write(tmp_path, tree)
    run(tmp_path)
    (tmp_path / "out" / "a" / "stage.json").unlink()
    stages = tree["stages"]
    assert isinstance(stages, dict)
    stages["c"]["arguments"][3] = "d"
    write(tmp_path, tree)
    with pytest.raises(RecipeError, match=r"stage c .*\n  - arguments\[3\]: was \"c\", is \"d\"\n.*--from c"):
        run(tmp_path)
    assert ran(tmp_path) == ["a", "b", "c"]


def test_an_output_that_somebody_changed_is_refused(tmp_path: Path) -> None:
    write(tmp_path, chain(tmp_path))
    run(tmp_path)
    (tmp_path / "out" / "a" / "out").write_text("forged")
    with pytest.raises(RecipeError, match="not what the stage left"):
        run(tmp_path)


def test_a_changed_setting_is_named_with_both_values(tmp_path: Path) -> None:
    from rlvr.distill.pipeline.identity import differences, identity_of
    from rlvr.distill.pipeline.recipe import Stage

    before = identity_of(Stage(verb="train", settings={"learner": {"learning_rate": 1e-5}, "data": "${x}"}), {"x": "1"})
    stage = Stage(verb="train", settings={"learner": {"learning_rate": 2e-5}, "data": "${x}"})
    assert differences(before, identity_of(stage, {"x": "2"}), stage) == [
        'settings.data: "${x}" has changed',
        "settings.learner.learning_rate: was 1e-05, is 2e-05",
    ]


def test_a_failing_stage_says_why_and_what_was_done_stays(tmp_path: Path) -> None:
    tree = chain(tmp_path)
    stages = tree["stages"]
    assert isinstance(stages, dict)
    stages["b"] = {
        "verb": "command",
        "output": "out",
        "arguments": ["bash", "-c", "echo no luck with ${a}; exit 3; echo ${out}"],
    }
    write(tmp_path, tree)
    with pytest.raises(RecipeError, match=r"(?s)stage b failed \(exit code 3\).*no luck with"):
        run(tmp_path)
    tree["stages"]["b"] = program(tmp_path, "b", "a")  # type: ignore[index]
    write(tmp_path, tree)
    assert any("b: was begun as another one" in line for line in run(tmp_path))
    assert ran(tmp_path) == ["a", "b", "c"]


def test_a_stage_that_leaves_nothing_is_not_done(tmp_path: Path) -> None:
    write(
        tmp_path, {"name": "n", "stages": {"s": {"verb": "command", "output": "out", "arguments": ["true", "${out}"]}}}
    )
    with pytest.raises(RecipeError, match="left nothing at"):
        run(tmp_path)


def test_killed_in_any_stage_it_goes_on_there_and_leaves_no_process(tmp_path: Path) -> None:
    """kill -9 of the command's whole process group while its second stage runs, which has started a daemon."""
    tree = chain(tmp_path)
    stages = tree["stages"]
    assert isinstance(stages, dict)
    daemon = "setsid sleep 600 & echo $! > daemon.txt"
    slow = ["bash", "-c", f"{daemon}; echo $$ > pid.txt; test -f go || sleep 600; cp ${{a}} ${{out}}"]
    stages["b"] = {"verb": "command", "output": "out", "arguments": slow}
    file = write(tmp_path, tree)
    words = [sys.executable, "-m", "rlvr.cli", "pipeline", "run", str(file), "--folder", str(tmp_path / "out")]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        pids = [wait_for_pid(tmp_path / "pid.txt"), wait_for_pid(tmp_path / "daemon.txt")]
        os.killpg(process.pid, signal.SIGKILL)
    for pid in pids:
        wait_until_gone(pid)
    (tmp_path / "daemon.txt").unlink()
    (tmp_path / "go").touch()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "a: done before" in done.stdout
    assert ran(tmp_path) == ["a", "c"]
    assert (tmp_path / "out" / "b" / "out").read_text() == "SOME WORDS a"
    wait_until_gone(wait_for_pid(tmp_path / "daemon.txt"))  # a stage that ends by itself takes all with it, too


def wait_for_pid(file: Path) -> int:
    for _ in range(600):
        if file.exists() and file.read_text().strip():
            return int(file.read_text())
        time.sleep(0.1)
    raise AssertionError("the stage did not start")


def wait_until_gone(pid: int) -> None:
    for _ in range(300):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"process {pid} outlived the pipeline")


def test_one_run_in_a_folder_at_a_time(tmp_path: Path) -> None:
    import fcntl

    write(tmp_path, chain(tmp_path))
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecipeError, match="another process runs a recipe"):
            run(tmp_path)


def test_dry_run_tells_states_and_runs_nothing(tmp_path: Path) -> None:
    write(tmp_path, chain(tmp_path))
    place = Place(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")
    assert [stage.state for stage in outlook(place)] == [State.TO_RUN] * 3
    assert not (tmp_path / "ran.txt").exists()
    run(tmp_path)
    assert [stage.state for stage in outlook(place)] == [State.DONE] * 3
    (tmp_path / "out" / "c" / "stage.json").unlink()
    (tmp_path / "words.txt").write_text("others")
    assert [stage.state for stage in outlook(place)] == [State.CHANGED, State.TO_RUN, State.UNFINISHED]


def stage_with(tmp_path: Path, stage: dict[str, object]) -> Place:
    """A recipe of one stage, `s`, that may read the folder `x`."""
    (tmp_path / "x").mkdir(exist_ok=True)
    return Place(read_recipe(write(tmp_path, {"name": "n", "inputs": {"x": "x"}, "stages": {"s": stage}})), tmp_path)


SETTINGS = {
    "model": "${x}",
    "data": "some/dataset",
    "reward": "math_answer",
    "steps": 10,
    "rollout": {"groups_per_step": 4, "group_size": 8},
    "sampling": {"max_new_tokens": 100},
}


TRAINS: dict[str, object] = {"verb": "train", "settings": SETTINGS | {"model": "m"}}


def test_costs_are_bounds_from_the_settings(tmp_path: Path) -> None:
    place = stage_with(tmp_path, {"verb": "train", "settings": SETTINGS})
    assert bounds(place, "s") == (
        "10 steps, 320 trained answers, at most 32,000 tokens of them; at most 4 times as many are sampled"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": SETTINGS | {"lerner": {}}}, r"stages.s: .*\n.*lerner: no such setting; did you mean learner"),
        ({"settings": SETTINGS | {"reward": "math_anser"}}, "stages.s: no reward named 'math_anser'. Did you mean"),
        ({"settings": SETTINGS | {"reward": [{"use": "format", "arguments": {"n": 1}}]}}, "stages.s: reward format"),
        ({"settings": SETTINGS | {"data": "nowhere.jsonl"}}, "stages.s: data.path: no file at nowhere.jsonl"),
        ({"settings": SETTINGS | {"env": "nothing"}}, "stages.s: no env named 'nothing'"),
        ({"verb": "distill opd", "options": {"techer": "${x}"}}, r"stages.s: rlvr distill opd: No such option.*techer"),
        ({"verb": "distill sample", "options": {"n": 4}}, r"stages.s: rlvr distill sample: Missing option.*teacher"),
        ({"verb": "distill sample", "options": {"teacher": "${x}", "n": "four"}}, "stages.s: .*--n.*integer"),
        ({"verb": "distill opd", "options": {"teacher": "tencent/hunyuan-large"}}, r"stages.s: tencent.*licence"),
        ({"verb": "codistill"}, "stages.s: peers: must name two or more"),
        (
            {"verb": "codistill", "settings": SETTINGS | {"peers": {"a": {}, "b": {"rewart": "code"}}}},
            r"stages.s: peers.b: .*\n.*rewart: no such setting",
        ),
    ],
)
def test_a_fault_of_any_stage_is_told_before_the_first_runs(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    place = stage_with(tmp_path, {"verb": "train", "settings": SETTINGS} | change)
    with pytest.raises(RecipeError, match=message):
        outlook(place)
    with pytest.raises(RecipeError, match=message):
        run_recipe(place, (), print)
    assert not place.stage("s").path.exists()


def test_models_are_looked_for_and_teachers_understood_before_the_first_stage(tmp_path: Path, teacher: Path) -> None:
    place = stage_with(tmp_path, {"verb": "train", "settings": SETTINGS})
    with pytest.raises(RecipeError, match=r"stages.s: model.name=.*/x: the folder has no config.json"):
        run_recipe(place, (), print)
    other = json.loads((teacher / "tokenizer_config.json").read_text())
    (tmp_path / "teacher").mkdir()
    for file in teacher.iterdir():
        (tmp_path / "teacher" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "teacher" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    other.pop("chat_template", None)
    (tmp_path / "teacher" / "tokenizer_config.json").write_text(json.dumps(other))
    options = {"teacher": "${x}"}
    (tmp_path / "x").rmdir()
    (tmp_path / "teacher").rename(tmp_path / "x")
    place = stage_with(tmp_path, {"verb": "distill opd", "settings": SETTINGS | {"model": "tiny"}, "options": options})
    with pytest.raises(RecipeError, match=r"stages.s: teacher .*/x: its chat template differs from the student's"):
        run_recipe(place, (), print)
    # Text is compared, and a policy that teaches itself speaks its own language.
    spans = {"verb": "distill opd", "settings": SETTINGS | {"model": "tiny"}, "options": options | {"signal": "spans"}}
    check_models(stage_with(tmp_path, spans))
    for itself in ({"teacher": "self", "teacher_prompt": "{prompt}"}, {"teacher": ["all=ema"], "ema_rate": 0.1}):
        own = spans | {"options": itself}
        check_stages(stage_with(tmp_path, own))
        check_models(stage_with(tmp_path, own))
    assert not place.stage("s").path.exists()


def test_a_model_goes_back_to_what_its_first_stage_began_with(tmp_path: Path) -> None:
    tree = {
        "name": "n",
        "stages": {
            "a": {"verb": "train", "settings": SETTINGS | {"model": {"name": "tiny"}}},
            "b": {"verb": "train", "settings": SETTINGS | {"model": "${a}"}},
            "c": {"verb": "distill merge", "arguments": ["${b}", "${a}"]},
            "d": {"verb": "command", "output": "model", "arguments": ["cp", "${c}", "${out}"]},
        },
    }
    place = Place(read_recipe(write(tmp_path, tree)), tmp_path)
    assert [began_with(place, f"${{{name}}}") for name in "abcd"] == [str(BASE), str(BASE), str(BASE), None]


PEERS = {
    "verb": "codistill",
    "settings": SETTINGS
    | {"generator": {"engine": "transformers"}, "rollout": {}, "peers": {"one": {}, "two": {"model": "tiny"}}},
}


def test_what_a_co_distillation_leaves_is_one_policy_of_each_peer(tmp_path: Path) -> None:
    tree = {
        "name": "n",
        "inputs": {"x": "x"},
        "stages": {
            "a": PEERS,
            "b": {"verb": "train", "settings": SETTINGS | {"model": "${a}/one/policy"}},
            "c": {"verb": "train", "settings": SETTINGS | {"model": "${a}/two/policy"}},
        },
    }
    (tmp_path / "x").mkdir()
    place = Place(read_recipe(write(tmp_path, tree)), tmp_path)
    with pytest.raises(RecipeError, match=r"stages.a: .*/x: licence"):
        check_stages(place)
    (tmp_path / "x" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    check_stages(place)
    assert [began_with(place, f"${{{name}}}") for name in "bc"] == [str(tmp_path / "x"), str(BASE)]
    assert place.settings("b")["model"] == f"{tmp_path}/a/run/peers/one/policy"
    assert bounds(place, "a") == "2 policies, each of 10 steps of 128 answers of at most 100 tokens"
    config = tmp_path / "a" / "config.yaml"
    assert place.command("a")[1:] == ["-m", "rlvr.cli", "codistill", str(config), f"run_dir={tmp_path}/a/run"]
    with pytest.raises(RecipeError, match=r"stages.a: model.name=.*/x: the folder has no config.json"):
        check_models(place)


def test_peers_of_a_stage_must_speak_one_language(tmp_path: Path, teacher: Path) -> None:
    place = stage_with(tmp_path, PEERS)
    shutil.copytree(teacher, tmp_path / "x", dirs_exist_ok=True)
    check_models(place)
    (tmp_path / "x" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(RecipeError, match=r"stages.s: .*its chat template differs"):
        check_models(place)


def test_a_co_distillation_goes_on_from_the_newest_checkpoint_of_any_peer(tmp_path: Path) -> None:
    place = stage_with(tmp_path, PEERS)
    assert newest(place.stage("s"), VERBS["codistill"])[0] is None
    for name, step in (("one", 4), ("two", 6)):
        checkpoint = tmp_path / "s" / "run" / "peers" / name / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        state = {field.name: 0 for field in dataclasses.fields(CheckpointState)} | {"step": step}
        (checkpoint / "state.json").write_text(json.dumps(state))
    found, folder = newest(place.stage("s"), VERBS["codistill"])
    assert found is not None and found.state.step == 6 and folder.path.name == "two"


def test_a_stage_that_trains_is_a_command_line_with_a_config(tmp_path: Path) -> None:
    place = stage_with(tmp_path, {"verb": "train", "settings": {"model": "${x}"}})
    config = tmp_path / "s" / "config.yaml"
    assert place.command("s")[1:] == ["-m", "rlvr.cli", "train", str(config), f"run_dir={tmp_path}/s/run"]
    assert place.settings("s") == {"model": str(tmp_path / "x")}
    assert place.command("s", resume=True)[-2:] == ["--resume", f"run_dir={tmp_path}/s/run"]


def test_an_export_is_called_as_its_stage_says(tmp_path: Path) -> None:
    place = stage_with(tmp_path, {"verb": "distill export", "arguments": ["${x}"], "output": "Llama-of-Mine"})
    named = tmp_path / "s" / "Llama-of-Mine"
    assert place.command("s")[1:] == ["-m", "rlvr.cli", "distill", "export", str(tmp_path / "x"), str(named)]
    assert place.output("s") == named


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {}}, "there is none"),
        ({"stages": {"a": {"verb": "trian"}}}, "no 'trian'; did you mean 'train'"),
        ({"stages": {"a": {"verb": "train", "settings": {"model": "${b}"}}}}, r"\$\{b\}: no 'b'"),
        ({"stages": {"a": {"verb": "command", "output": "out", "arguments": ["true"]}}}, "must name"),
        (
            {"stages": {"a": {"verb": "command", "output": "out", "arguments": ["cp", "${out}"], "options": {"n": 1}}}},
            "a command has `arguments` alone",
        ),
        ({"stages": {"out": {"verb": "train"}}}, "'out' is no name"),
        ({"stages": {"a": TRAINS | {"gate": {"pass@1": {"of": "a"}}}}}, "a.gate: needs .* the recipe's `evaluation`"),
        (
            {"evaluation": {"data": "d"}, "stages": {"a": TRAINS | {"gate": {"pass@1": {"of": "b"}}}}},
            "a.gate.pass@1.of: no 'b'",
        ),
        (
            {"stages": {"a": {"verb": "command", "arguments": ["cp", "${out}"]}}},
            "a.output: a command or an export says",
        ),
        ({"stages": {"a": {"verb": "train"}}}, "a.settings: train needs some"),
        ({"stages": {"a": {"verb": "distill merge", "settings": {"steps": 1}}}}, "a.settings: distill merge has none"),
        ({"stages": {"replaced": {"verb": "train"}}}, "'replaced' is no name"),
        ({"inputs": {"a": "nowhere"}, "stages": {"b": {"verb": "train"}}}, "inputs.a: there is nothing at"),
        ({"stages": {"a": {"verb": "train", "setings": {}}}}, "stages.a.setings: Extra inputs"),
        (
            {
                "stages": {
                    "a": {"verb": "train", "settings": {"model": "${b}"}},
                    "b": {"verb": "train", "settings": {"model": "${a}"}},
                }
            },
            "wait for one another: [ab] -> [ab] -> [ab]",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(tmp_path, {"name": "n"} | change))


def test_each_policy_is_asked_the_recipes_questions(tmp_path: Path) -> None:
    """Real training, two steps, and a real evaluation, each in a process of its own."""
    from rlvr.demo.problems import Split, write_jsonl

    write_jsonl(tmp_path / "train.jsonl", Split.TRAIN, 64, 0)
    write_jsonl(tmp_path / "asked.jsonl", Split.HELD_OUT, 16, 0)
    columns = {"prompt": "question", "max_prompt_tokens": 128}
    common = {"reward": "math_answer", "sampling": {"max_new_tokens": 44}, "generator": {"engine": "transformers"}}
    settings = common | {
        "model": "tiny",
        "data": columns | {"path": "${train}"},
        "rollout": {"group_size": 4, "groups_per_step": 2},
        "cluster": {"backend": "local"},
        "learner": {"token_budget": 1024},
        "steps": 2,
    }
    tree = {
        "name": "real",
        "inputs": {"train": "train.jsonl", "asked": "asked.jsonl"},
        "evaluation": common | {"data": columns | {"path": "${asked}"}},
        "stages": {"reason": {"verb": "train", "settings": settings}},
    }
    write(tmp_path, tree)
    told = run(tmp_path)
    metrics = json.loads((tmp_path / "out" / "reason" / "evaluation" / "metrics.json").read_text())
    assert metrics["evaluation/tasks"] == 16
    assert told[-1] == f"[1/1] reason: accuracy {metrics['evaluation/pass@1']:.3f}"
    assert (tmp_path / "out" / "reason" / "run" / "policy" / "model.safetensors").is_file()
    record = (tmp_path / "out" / "reason" / "stage.json").read_bytes()
    assert run(tmp_path) == ["[1/1] reason: done before", told[-1]]

    # Other questions are asked again, and nothing is trained again.
    write_jsonl(tmp_path / "asked.jsonl", Split.HELD_OUT, 8, 1)
    told = run(tmp_path)
    assert told[:2] == [
        "[1/1] reason: done before",
        "[1/1] reason: asking its policy again: the questions are others than they were",
    ]
    metrics = json.loads((tmp_path / "out" / "reason" / "evaluation" / "metrics.json").read_text())
    assert metrics["evaluation/tasks"] == 8
    assert (tmp_path / "out" / "reason" / "stage.json").read_bytes() == record


def found(**accuracies: float) -> Evaluation:
    """An evaluation with an accuracy for each verifier."""
    of = {f"evaluation/accuracy/{name}": value for name, value in accuracies.items()}
    return Evaluation({}, {"evaluation/pass@1": sum(accuracies.values()) / len(accuracies)} | of, 1.0)


def test_a_gate_holds_each_figure_against_the_stage_that_it_names() -> None:
    gate = {"accuracy/math": Bound(of="m", within=0.02), "accuracy/code": Bound(of="c", within=0.1)}
    others = {"m": found(math=0.9, code=0.1), "c": found(math=0.1, code=0.8)}
    held = hold("student", gate, found(math=0.89, code=0.71), others)
    assert held == [
        "gate held: accuracy/math 0.890, and m less 0.02 is 0.880",
        "gate held: accuracy/code 0.710, and c less 0.1 is 0.700",
    ]
    with pytest.raises(
        RecipeError, match=r"student does not hold its gate.*\n  - accuracy/code 0.690, and c less 0.1"
    ) as e:
        hold("student", gate, found(math=0.89, code=0.69), others)
    assert "accuracy/math 0.890" not in str(e.value)
    with pytest.raises(
        RecipeError, match="the evaluation of m has no 'accuracy/maths'; it has accuracy/code, accuracy/math"
    ):
        hold("student", {"accuracy/maths": Bound(of="m")}, found(maths=1), others)
