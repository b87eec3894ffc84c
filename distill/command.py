"""`rlvr distill`: what one model has learned, carried to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Distillation: what one model has learned, carried to another.", no_args_is_help=True)

Words = Annotated[
    list[str] | None, typer.Argument(help="config files (.yaml) and settings (key=value) of the student's run")
]
Use = Annotated[str, typer.Option(help="what the student is for: commercial or research")]
Given = Annotated[list[str] | None, typer.Option("--license", help="TEACHER=ID: a licence that you know of")]
Resume = Annotated[bool, typer.Option("--resume", help="go on with the run in run_dir, from its newest checkpoint")]
Accepted = Annotated[list[str] | None, typer.Option("--accept-license", help="a licence id that you accept")]


@app.command()
def opd(
    words: Words = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="folder, hub name, URL#MODEL, self: the policy itself, on --teacher-prompt, or ema: the moving "
            "average of its versions; TAG=... teaches the rows with this tag; may be repeated"
        ),
    ] = None,
    ema_rate: Annotated[
        float, typer.Option(help="what each version of the policy counts in its average, above 0, at most 1")
    ] = 0.05,
    signal: Annotated[
        str,
        typer.Option(help="student_topk, teacher_topk, sampled, or spans: for a teacher with another tokenizer"),
    ] = "student_topk",
    k: Annotated[int, typer.Option(help="ids of a token that the teacher is asked about")] = 32,
    divergence: Annotated[
        str, typer.Option(help="reverse, forward, jsd:BETA, skewed_forward:ALPHA, skewed_reverse:ALPHA")
    ] = "reverse",
    reward_weight: Annotated[float, typer.Option(help="what the verifier's advantage counts beside; 0: nothing")] = 0.0,
    clip: Annotated[float, typer.Option(help="bound of the sampled signal, in nats")] = 5.0,
    tag_column: Annotated[str, typer.Option(help="column with a row's tag")] = "tag",
    teacher_prompt: Annotated[
        str | None,
        typer.Option(
            help="what teachers read in the place of a task's last message: {prompt} is that, {NAME} a column"
        ),
    ] = None,
    max_regression: Annotated[
        float | None, typer.Option(help="stop when a tag's held-out accuracy falls below its first by more than this")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="of served teachers, unless MODEL leads to it")] = None,
    use: Use = "commercial",
    license_: Given = None,
    accept_license: Accepted = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in run_dir, with its teachers")] = False,
) -> None:
    """On-policy distillation: a student answers, teachers say how likely they would have said that.

    Data and settings are those of `rlvr train`; a reward is needed only for evaluation or with --reward-weight.
    """
    from rlvr.cli import read_config, tell_result
    from rlvr.distill.gate import Gate
    from rlvr.distill.opd import OPDOptions, resume_opd, run_opd

    # Where all answers of a task are equally good a verifier has nothing to say, and a teacher has.
    config = read_config([*(words or []), "rollout.drop_zero_variance=false"], resume=resume)
    if resume:
        tell_result(resume_opd(config))
        return
    gate = Gate(use, license_ or [], accept_license or [])
    options = OPDOptions(
        teachers=tuple(teacher or ()),
        tag_column=tag_column,
        tokenizer=tokenizer,
        signal=signal,
        k=k,
        divergence=divergence,
        clip=clip,
        reward=reward_weight,
        prompt=teacher_prompt,
        ema_rate=ema_rate,
        max_regression=max_regression,
        gate=gate,
    )
    tell_result(run_opd(config, options))


@app.command()
def sample(
    out: Annotated[Path, typer.Option("--out", "-o", help="file to write, .parquet")],
    teacher: Annotated[str, typer.Option(help="folder, hub name or URL#MODEL")],
    words: Words = None,
    n: Annotated[int, typer.Option("--n", "-n", help="answers to a task")] = 8,
    cap: Annotated[int, typer.Option(help="answers kept of a task, at most")] = 4,
    max_tokens: Annotated[int | None, typer.Option(help="tokens of an answer that is kept, at most")] = None,
    language: Annotated[str | None, typer.Option(help="pattern that the whole answer must match")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="of a served teacher, unless MODEL leads to it")] = None,
    use: Use = "commercial",
    license_: Given = None,
    accept_license: Accepted = None,
) -> None:
    """Have a teacher answer the tasks of data, and keep what its verifier (the reward) says is right."""
    from rlvr.api import run_coroutine
    from rlvr.cli import read_config
    from rlvr.distill.gate import Gate
    from rlvr.distill.sample import SampleOptions
    from rlvr.distill.sample import sample as sample_teacher

    gate = Gate(use, license_ or [], accept_license or [])
    options = SampleOptions(teacher, n, cap, max_tokens, language, tokenizer, gate)
    config = read_config([*(words or []), "rollout.drop_zero_variance=false"], resume=False)
    report = run_coroutine(sample_teacher(config, options, out))
    print(f"{report.kept} of {report.answers} answers kept, to {report.solved_tasks} of {report.tasks} tasks")
    for reason, count in sorted(report.dropped.items(), key=lambda one: -one[1]):
        print(f"  dropped, {reason}: {count}")
    print(f"rows: {report.file.resolve()}")


@app.command()
def capture(
    rows: Annotated[Path, typer.Option(help="answers to ask about: what `rlvr distill sample` leaves")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder of the store")],
    teacher: Annotated[str, typer.Option(help="folder, hub name or URL#MODEL")],
    words: Words = None,
    k: Annotated[int, typer.Option(help="likeliest ids of a token that are kept")] = 32,
    tokenizer: Annotated[str | None, typer.Option(help="of a served teacher, unless MODEL leads to it")] = None,
    use: Use = "commercial",
    license_: Given = None,
    accept_license: Accepted = None,
) -> None:
    """Ask a teacher about each token of given answers, in the tokens of the student, and keep it in a store."""
    from rlvr.api import run_coroutine
    from rlvr.cli import read_config
    from rlvr.distill.capture import capture as capture_teacher
    from rlvr.distill.gate import Gate

    gate = Gate(use, license_ or [], accept_license or [])
    config = read_config(words or [], resume=False)
    store = run_coroutine(capture_teacher(config, teacher, rows, k, out, gate, tokenizer))
    size = sum(file.stat().st_size for file in out.glob("part-*"))
    print(f"{store.rows} rows, {size / 2**20:.1f} MiB: {out.resolve()}")


@app.command()
def sft(
    words: Words = None,
    rows: Annotated[Path | None, typer.Option(help="answers to train on: what `rlvr distill sample` leaves")] = None,
    use: Use = "commercial",
    accept_license: Accepted = None,
    resume: Resume = False,
) -> None:
    """Train a student on a teacher's answers: the cross-entropy of each of their tokens."""
    _train_offline(words or [], "--rows", rows, None, use, accept_license, resume=resume)


@app.command()
def logits(
    words: Words = None,
    store: Annotated[Path | None, typer.Option(help="what `rlvr distill capture` leaves")] = None,
    divergence: Annotated[
        str, typer.Option(help="forward, reverse, jsd:BETA, skewed_forward:ALPHA, skewed_reverse:ALPHA")
    ] = "forward",
    use: Use = "commercial",
    accept_license: Accepted = None,
    resume: Resume = False,
) -> None:
    """Train a student towards what a store's teacher said of each token: a divergence on its ids and the tail."""
    _train_offline(words or [], "--store", store, divergence, use, accept_license, resume=resume)


def _train_offline(
    words: list[str],
    option: str,
    made: Path | None,
    divergence: str | None,
    use: str,
    accepted: list[str] | None,
    *,
    resume: bool,
) -> None:
    """What a teacher left, the file or store `made`, is the run's data; a resume finds it in the run's config."""
    from rlvr.cli import read_config, tell_supervised
    from rlvr.distill.gate import Gate
    from rlvr.distill.offline import OfflineOptions, resume_offline, run_offline

    if resume:
        tell_supervised(resume_offline(read_config(words, resume=True)))
        return
    if made is None:
        raise typer.BadParameter("must be given, unless a run is resumed", param_hint=option)
    config = read_config([*words, f"data.path={made.resolve()}"], resume=False)
    tell_supervised(run_offline(config, OfflineOptions(divergence, Gate(use, (), accepted or []))))


@app.command("merge")
def merge_models(
    models: Annotated[list[Path], typer.Argument(help="folders of models that were trained from the same one")],
    out: Annotated[Path, typer.Option("--out", "-o", help="a new folder")],
    share: Annotated[
        list[float] | None, typer.Option(help="a model's share of the mean, one for each; unset: equal shares")
    ] = None,
) -> None:
    """Make one model whose weights are the mean of several. Evaluate it: nothing guarantees that it is a good one."""
    from rlvr.distill.merge import merge

    merge(models, share or [1.0] * len(models), out)
    print(f"model: {out.resolve()}")


@app.command()
def export(
    policy: Annotated[Path, typer.Argument(help="a student's folder, such as runs/.../policy")],
    folder: Annotated[Path, typer.Argument(help="a new folder; its name is the one the model is given to others by")],
) -> None:
    """Copy a student for others, with the notice that its teachers' licences ask for; a name they forbid is refused."""
    from rlvr.distill.gate import export as export_student
    from rlvr.distill.licence import NOT_LEGAL_ADVICE

    notice = export_student(policy, folder)
    print(f"exported: {folder.resolve()}")
    if notice:
        print(f"its NOTICE says:\n\n{notice}\n{NOT_LEGAL_ADVICE}")
