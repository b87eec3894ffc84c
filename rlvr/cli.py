"""The command line. Settings are given as in YAML and Python: `rlvr train config.yaml learner.learning_rate=1e-5`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvr import plugins
from rlvr.demo.subjects import DemoTask

if TYPE_CHECKING:
    from rlvr.config import Config
    from rlvr.supervised.run import SupervisedResult
    from rlvr.training import RunResult

app = typer.Typer(
    help="Reinforcement learning with verifiable rewards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
reward_app = typer.Typer(help="Reward functions: try them before a run does.", no_args_is_help=True)
app.add_typer(reward_app, name="reward")
for command in plugins.commands():
    app.add_typer(command.load(), name=command.name)

Words = Annotated[
    list[str] | None,
    typer.Argument(help="config files (.yaml) and settings (key=value), the later over the earlier"),
]


def main() -> None:
    """Entry point: errors a user can mend are one message without a traceback."""
    from rlvr.errors import USER_ERRORS

    # A model folder or hub name is given; telemetry and progress bars of libraries only hide our own output.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except USER_ERRORS as error:
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]))
    except KeyboardInterrupt:
        sys.exit("interrupted; a run goes on with its command, --resume and run_dir=FOLDER")


@app.command()
def train(
    words: Words = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint of run_dir")] = False,
) -> None:
    """Train a policy. With --resume and run_dir=FOLDER, go on with that run."""
    _train(read_config(words or [], resume=resume), resume=resume)


@app.command()
def sft(
    words: Words = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint of run_dir")] = False,
) -> None:
    """Fine-tune on examples: rows of prompt and completion, or conversations.

    Generators are started only where evaluation.data has tasks that a reward judges.
    """
    from rlvr.api import run_coroutine, with_run_dir
    from rlvr.supervised.run import prepare_sft, run_supervised

    config = with_run_dir(read_config(words or [], resume=resume))
    tell_supervised(run_coroutine(run_supervised(prepare_sft(config), resume=resume)))


@app.command()
def demo(
    words: Words = None,
    task: Annotated[
        DemoTask, typer.Option(help="word problems, small functions that unit tests judge, or both in one run")
    ] = DemoTask.MATH,
) -> None:
    """Train an embedded tiny model on small problems, and show that it got better."""
    from rlvr.demo.run import demo_config

    config = demo_config(words or [], task)
    print(f"A tiny language model {task.story} by reinforcement learning alone.")
    _train(config, resume=False)


@app.command("eval")
def evaluate(
    words: Words = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the numbers to this file as well")] = None,
) -> None:
    """Answer the held-out tasks of evaluation.data with a model as it is, without training."""
    import json

    from rlvr.api import run_coroutine
    from rlvr.evaluate_alone import evaluate_alone
    from rlvr.prepare import prepare

    config = read_config(words or [], resume=False)
    if config.evaluation.data is None:  # one dataset is enough: it is what is evaluated
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"data": config.data})})
    report = run_coroutine(evaluate_alone(prepare(config)))
    print(f"{config.model.name}: {report.tasks} tasks, {report.answers} answers")
    for name, value in report.metrics().items():
        print(f"  {name.removeprefix('evaluation/'):18} {value:.4g}")
    if json_file is not None:
        json_file.write_text(json.dumps(report.metrics(), indent=2) + "\n", encoding="utf-8")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="the run's folder")]) -> None:
    """Write a run's report: one HTML page with curves and what the model wrote."""
    from rlvr.report.page import write_report
    from rlvr.run_folder import RunFolder

    print(f"report: {write_report(RunFolder(run)).resolve()}")


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="the run's folder")],
    step: Annotated[int, typer.Argument(min=1, help="the step whose batch is trained again")],
    words: Annotated[list[str] | None, typer.Argument(help="settings (key=value) in place of the run's own")] = None,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="on the newest checkpoint as it is, without the steps between")
    ] = False,
) -> None:
    """Train one step's batch again, in the learner alone, and say what each guard sees. The run stays as it is.

    The learner takes up the newest checkpoint before the step and trains the batches after it again.
    """
    from rlvr.replay import replay as replay_step
    from rlvr.replay import show

    show(replay_step(run, step, words or [], exact=not nearest))


@app.command()
def doctor() -> None:
    """Say what this machine has, and what a run would use."""
    from rlvr.doctor import examine, show

    show(examine())


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="a run's folder, for its newest checkpoint, or one checkpoint of it")],
    out: Annotated[Path, typer.Option(help="the folder to write, which must not be there yet")],
    adapter: Annotated[bool, typer.Option("--adapter", help="the LoRA adapter alone, in peft's form")] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; unset: the run's generator.dtype or model.dtype, else float32"
        ),
    ] = None,
) -> None:
    """Write a checkpoint's policy as a plain Hugging Face folder, adapters merged, that transformers and vLLM load."""
    from rlvr.config import DType
    from rlvr.export import export_policy

    if dtype is not None and dtype not in set(DType):
        raise typer.BadParameter(f"there are {', '.join(DType)}", param_hint="--dtype")
    made = export_policy(source, out, adapter=adapter, dtype=DType(dtype) if dtype else None)
    print(f"{'adapter' if made.adapter else 'policy'} of version {made.version}: {made.folder.resolve()}")


@app.command("inspect")
def inspect_models(
    models: Annotated[list[str], typer.Argument(help="folders with a config.json, hub names, or shipped short names")],
    context: Annotated[list[int] | None, typer.Option(help="length in tokens; may be given several times")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, a list with one entry a model")] = False,
) -> None:
    """Say what models are made of, from their configs alone: parameters, experts, attention, KV bytes, operations."""
    import dataclasses
    import json

    from rlvr.architecture.catalog import find_model
    from rlvr.architecture.summary import CONTEXTS, show, summarise

    if context and min(context) < 1:
        raise typer.BadParameter("a length is at least 1 token", param_hint="--context")
    found = [summarise(find_model(name), context or CONTEXTS) for name in models]
    if as_json:
        print(json.dumps([dataclasses.asdict(facts) for facts in found], indent=2))
    else:
        show(found)


@app.command()
def plan(
    words: Words = None,
    gpus: Annotated[int, typer.Option(help="number of GPUs")] = 1,
    gpu: Annotated[str, typer.Option(help="kind of GPU: b200, h200, h100, a100, l40s, ...; or cpu")] = "h100",
    prompt_tokens: Annotated[int | None, typer.Option(help="mean length of a prompt; unset: half the most")] = None,
    answer_tokens: Annotated[int | None, typer.Option(help="mean length of an answer; unset: half the most")] = None,
) -> None:
    """Say before a run what it needs: memory by part, what fits, how fast it may go. Exit code 1: it does not fit."""
    from rlvr.plan.planner import plan_run
    from rlvr.plan.show import show

    made = plan_run(read_config(words or [], resume=False), gpu, gpus, prompt=prompt_tokens, answer=answer_tokens)
    show(made)
    sys.exit(0 if made.fits else 1)


@app.command()
def settings() -> None:
    """Print every setting: type, default, range, and why."""
    from rlvr.settings_page import settings_page

    print(settings_page(), end="")


@app.command()
def submit(
    words: Words = None,
    address: Annotated[str, typer.Option(help="the cluster's job server")] = "http://127.0.0.1:8265",
    python: Annotated[str, typer.Option(help="the cluster's Python, where rlvr is installed")] = sys.executable,
) -> None:
    """Hand a config to a Ray cluster through its job submission, and follow it to the end."""
    from rlvr.submit import submit_and_follow

    sys.exit(0 if submit_and_follow(read_config(words or [], resume=False), address, python) else 1)


@reward_app.command("check")
def reward_check(
    file: Annotated[Path, typer.Argument(help="a .jsonl or .parquet file of answers")],
    reward: Annotated[str, typer.Option(help="short name, module:function, or file.py:function")],
    completion: Annotated[str, typer.Option(help="column with what a model wrote")] = "completion",
    target: Annotated[str, typer.Option(help="column to check against")] = "answer",
    label: Annotated[str | None, typer.Option(help="column with the true verdict, for agreement")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="a fixed argument of the reward: key=value")] = None,
    limit: Annotated[int | None, typer.Option(help="check the first rows only")] = None,
    deadline_s: Annotated[float, typer.Option(help="seconds for one verdict")] = 10.0,
) -> None:
    """Run a reward over a file of answers: verdicts, agreement with labels, timings."""
    from rlvr.api import run_coroutine
    from rlvr.prepare import load_reward_with
    from rlvr.reward_check import Columns, check_file, show

    columns = Columns(completion, target, label)
    show(run_coroutine(check_file(file, load_reward_with(reward, set_ or []), columns, limit, deadline_s)))


@reward_app.command("reverify")
def reward_reverify(
    run: Annotated[Path, typer.Argument(help="the run's folder")],
    reward: Annotated[
        list[str], typer.Option(help="short name, module:function, or file.py:function; may be repeated")
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="a fixed argument of the one reward: key=value")
    ] = None,
    deadline_s: Annotated[float, typer.Option(help="seconds for one verdict")] = 10.0,
    workers: Annotated[int, typer.Option(help="processes for synchronous reward functions")] = 2,
) -> None:
    """Score a run's rollouts anew with another reward, and show what would have changed. The run stays as it is."""
    from rlvr.api import run_coroutine
    from rlvr.reward_reverify import reverify_run

    run_coroutine(reverify_run(run, reward, set_ or [], deadline_s, workers))


def read_config(words: list[str], *, resume: bool) -> Config:
    """The config that the words of a command line say. Raises ConfigError."""
    from rlvr.config_loading import load_config

    files = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word]
    if resume and not files:
        files = [str(_run_to_resume(settings) / "config.yaml")]
    return load_config(files, settings)


def _run_to_resume(settings: list[str]) -> Path:
    """The folder that is named, else the newest run under runs/."""
    from rlvr.config_loading import ConfigError

    named = [word.partition("=")[2] for word in settings if word.startswith("run_dir=")]
    runs = sorted(Path("runs").glob("*/config.yaml"), key=lambda file: file.stat().st_mtime)
    if not named and not runs:
        raise ConfigError("--resume: no run under runs/ here; name its folder with run_dir=FOLDER")
    return Path(named[-1]) if named else runs[-1].parent


def _train(config: Config, *, resume: bool) -> None:
    from rlvr.api import run_config

    tell_result(run_config(config, resume=resume))


def tell_supervised(result: SupervisedResult) -> None:
    """The same of a run on examples."""
    if result.loss_before is not None and result.loss_after is not None:
        print(f"held-out cross-entropy {result.loss_before:.4f} -> {result.loss_after:.4f} nats per token")
    tell_result(result)


def tell_result(result: RunResult) -> None:
    """What a finished run is worth, and where it lies."""
    if result.accuracy_before is not None and result.accuracy_after is not None:
        print(f"held-out accuracy {result.accuracy_before:.2f} -> {result.accuracy_after:.2f}")
    if result.before is not None and result.after is not None:
        for verifier, after in result.after.accuracy.items():
            print(f"  {verifier}: {result.before.accuracy[verifier]:.2f} -> {after:.2f}")
    print(f"policy: {result.policy.resolve()}")
    print(f"report: {result.report.resolve()}")


if __name__ == "__main__":
    main()
