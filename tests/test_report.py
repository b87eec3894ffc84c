"""The page is read with `html.parser` and `json`, as a browser would: nothing of the code that wrote it is used."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_run import make_run
from tokenizers import Tokenizer

from rlvr.events import EventKind, append_event
from rlvr.metrics import MetricLog, MetricRecord, read_metrics
from rlvr.report.charts import averaged, draw_charts, series
from rlvr.report.page import write_report
from rlvr.report.sample import evenly
from rlvr.rollout_log import read_groups, write_evaluation, write_rollouts
from rlvr.run_folder import RunFolder, RunFolderError
from rlvr.types import TokenFate

HOSTILE = (
    '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">\'`&amp;&lt; <!-- \u2028 語 🙂 \x00 '
)
LONG = HOSTILE + "x" * 100_000 + " end of the long answer"


class Page(HTMLParser):
    """Elements with their attributes, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # (name of the element it stands in, text)
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))

    def scripts(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "script"]

    def data(self) -> list[dict[str, Any]]:
        return json.loads(self.scripts()[0])


def report(run: RunFolder) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def page(finished: RunFolder) -> Page:
    return report(finished)


def hostile_run(path: Path) -> RunFolder:
    """A run whose every text tries to leave its place."""
    run = make_run(path, steps=2, of_steps=2)
    (groups, held_out) = read_groups(run.rollouts(2)), read_groups(run.evaluation(2))
    for group in [*groups, *held_out]:
        for trajectory in group.trajectories:
            trajectory.text = HOSTILE
    groups[0].trajectories[0].text = LONG
    write_rollouts(run, 2, groups, [])
    write_evaluation(run, 2, held_out)
    append_event(run, 2, EventKind.WARNING, HOSTILE)
    run.config.write_text(run.config.read_text().replace("models/word-problems-0.4M", '"</pre><img src=x onerror=1>"'))
    with MetricLog(run, resume_step=2) as log:
        log.log(2, {"reward/part/<img src=x onerror=window.pwned=1>": 1.0})
    return run


# ---------------------------------------------------------------- what the page tells


def test_the_story_is_that_of_the_metrics(finished: RunFolder, page: Page) -> None:
    lines = [json.loads(line) for line in finished.metrics.read_text().splitlines()]
    accuracies = [line["evaluation/pass@1"] for line in lines if "evaluation/pass@1" in line]
    told = re.sub(r"\s+", " ", page.text())
    assert f"Held-out accuracy {accuracies[0]:.2f} → {accuracies[-1]:.2f}" in told
    assert "60 steps in" in told
    for fact in ("models/word-problems-0.4M", "data/word-problems.jsonl", "math_answer", "dis", "2 versions"):
        assert fact in told
    assert "update skipped: gradient norm was inf" in told


def test_the_ledger_shows_each_reason_and_its_sum(finished: RunFolder, page: Page) -> None:
    newest = json.loads(finished.metrics.read_text().splitlines()[-1])
    last = newest if "ledger/issued" in newest else json.loads(finished.metrics.read_text().splitlines()[-2])
    told = re.sub(r"\s+", " ", page.text())
    assert f"balances {last['ledger/issued']:,.0f}" in told
    assert f"no gradient {last['ledger/filtered/zero_variance']:,.0f}" in told


def test_a_ledger_that_does_not_balance_is_said(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with MetricLog(run) as log:
        log.log(1, {"ledger/issued": 10.0, "ledger/trained": 7.0, "ledger/in_flight": 2.0})
    assert "does not balance: 10 were issued" in report(run).text()


def test_every_answer_on_the_page_is_one_of_the_run(finished: RunFolder, page: Page) -> None:
    folders = {False: "rollouts", True: "evaluations"}
    for group in page.data():
        file = finished.path / folders[group["heldOut"]] / f"step-{group['step']:06d}.parquet"
        rows = [row for row in pq.read_table(file).to_pylist() if row["group_id"] == group["id"]]
        assert [(a["text"], a["score"], a["fate"], a["advantage"], a["tokens"]) for a in group["answers"]] == [
            (row["answer"], row["score"], row["fate"], row["advantage"], row["tokens"]) for row in rows
        ]
        assert all(
            json.loads(row["parts"]) == a["parts"] and row["detail"] == a["detail"]
            for row, a in zip(rows, group["answers"], strict=True)
        )


def test_first_and_last_step_are_shown_and_the_sample_is_said(page: Page) -> None:
    steps = sorted({group["step"] for group in page.data() if not group["heldOut"]})
    assert (steps[0], steps[-1], len(steps)) == (1, 60, 12)
    assert "384 of 1,920 training answers" in page.text()
    assert sorted({group["step"] for group in page.data() if group["heldOut"]}) == [0, 40, 60]


def test_many_long_answers_are_bounded_and_the_page_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=3, of_steps=3)
    groups = read_groups(run.rollouts(1))
    for step in (1, 2, 3):
        for group in groups:
            for trajectory in group.trajectories:
                trajectory.text = "long " * 60_000
        write_rollouts(run, step, groups, [])
    page = report(run)
    assert run.report.stat().st_size < 15_000_000
    assert {group["step"] for group in page.data() if not group["heldOut"]} == {1, 2, 3}
    assert "24 of 96 training answers" in page.text()


@pytest.mark.parametrize(("target", "told"), [("42", "42"), (42, "42"), (["a", 1], '["a", 1]'), (float("nan"), "NaN")])
def test_a_target_is_told_as_text(tmp_path: Path, target: object, told: str) -> None:
    """Ready to be shown: what stands for no value in Python is not JSON, and a browser would stop at it."""
    run = make_run(tmp_path / "run", steps=1, of_steps=1, evaluate_every=0)
    groups = read_groups(run.rollouts(1))
    for group in groups:
        group.task = replace(group.task, target=target)
    write_rollouts(run, 1, groups, [])
    assert {group["target"] for group in report(run).data()} == {told}


def test_charts_for_what_is_measured_and_each_has_a_legend(page: Page) -> None:
    assert len(page.all("figure")) == len(page.all("svg")) == 12
    for title in ("Held-out accuracy", "Entropy", "Gradient norm", "Where the time of a step goes"):
        assert title in page.text()


# ---------------------------------------------------------------- runs that are not whole


def test_an_unfinished_run_without_evaluation(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", steps=7, of_steps=40, evaluate_every=0))
    told = re.sub(r"\s+", " ", page.text())
    assert "unfinished 7 of 40 steps" in told
    assert re.search(r"Mean reward 0\.\d\d → 0\.\d\d", told)
    assert "Held-out accuracy" not in told


def test_a_run_that_was_evaluated_and_has_not_trained_yet(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", steps=0, of_steps=40))
    assert re.search(r"Held-out accuracy\s+0\.\d\d", page.text())
    assert "No step is finished yet" in page.text()


def test_what_was_measured_once_is_not_told_as_a_change(tmp_path: Path) -> None:
    once = make_run(tmp_path / "once", steps=7, of_steps=40, evaluate_every=20)
    told = report(once).text()
    assert re.search(r"once: Held-out accuracy 0\.\d\d ", told)
    assert "→" not in told


def test_a_lone_step_is_told_by_its_number_and_fills_its_chart(tmp_path: Path) -> None:
    charts = {
        chart.title: chart.svg for chart in draw_charts(read_metrics(make_run(tmp_path / "run", steps=1).metrics))
    }
    for title in ("Reward", "Gradient norm", "Where the time of a step goes"):
        assert ">1</text>" in charts[title]
        assert not re.search(r">[01]\.\d{3}</text>", charts[title])


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (29, "Numbers are the newest"),
        (400, "Thin lines are steps, thick ones the mean of 27 neighbours"),
        (2000, "Thin lines are means of up to 5 steps, thick ones the mean of 27 neighbours"),
    ],
)
def test_the_page_tells_what_thin_lines_are(tmp_path: Path, steps: int, told: str) -> None:
    run = RunFolder(tmp_path)
    with MetricLog(run) as log:
        for step in range(1, steps + 1):
            log.log(step, {"reward/mean": 0.0})
    assert re.search(rf"Curves\s+{told}", report(run).text())


def test_numbers_alone_make_a_report(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with MetricLog(run) as log:
        log.log(1, {"reward/mean": float("nan"), "learner/grad_norm": float("inf")})
    told = report(run).text()
    assert "No score yet" in told
    assert "has not written down any answer" in told


def test_answers_of_steps_that_a_resume_does_again_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=6, of_steps=9)
    MetricLog(run, resume_step=4).close()
    assert {group["step"] for group in report(run).data() if not group["heldOut"]} == {1, 2, 3, 4}


def test_no_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere does not exist"):
        write_report(RunFolder(tmp_path / "nowhere"))
    with pytest.raises(RunFolderError, match=r"holds no run \(no metrics\.jsonl\)"):
        write_report(RunFolder(tmp_path))
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is empty"):
        write_report(RunFolder(tmp_path))


# ---------------------------------------------------------------- the page is safe, and alone


def test_the_page_asks_for_nothing_from_anywhere(finished: RunFolder, page: Page) -> None:
    text = finished.report.read_text()
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    for _, attributes in page.elements:
        assert not attributes.keys() & {"src", "href", "data", "action", "srcset"}
        assert (attributes.get("xlink:href") or "#").startswith("#")


def test_ids_of_the_page_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_only_the_script_of_the_page_may_run(page: Page) -> None:
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    _, script = page.scripts()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = report(hostile_run(tmp_path / "run"))
    assert page.all("img") == []
    assert len(page.all("script")) == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    texts = [answer["text"] for group in page.data() for answer in group["answers"]]
    assert HOSTILE in texts
    assert LONG in texts
    assert '<img src=x onerror="window.pwned=1">' in page.text()  # the warning, readable


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; the page was parsed by html.parser only")
def test_in_a_browser_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    write_report(run)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    shown = subprocess.run(
        [str(CHROMIUM), *flags, profile, "--dump-dom", run.report.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    dom = Page(shown)
    assert dom.all("img") == []
    assert len(dom.all("script")) == 2
    rows = [attributes for attributes in dom.all("tr") if attributes.get("class") == "row"]
    assert len(rows) == 50
    assert "</script><script>window.pwned=1</script>" in dom.text()


def test_tokens_of_one_fate_are_a_stretch_of_the_answer(tmp_path: Path) -> None:
    """Three of the tokens were trained, one was not, and what was read in between had no fate."""
    model = Path(str(files("rlvr.demo") / "base"))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    run = make_run(tmp_path / "run", steps=1, of_steps=1)
    run.config.write_text(run.config.read_text().replace("models/word-problems-0.4M", str(model)))
    group = read_groups(run.rollouts(1))[0]
    ids = tokenizer.encode("How many pens?", add_special_tokens=False).ids
    first, second = group.trajectories[:2]
    for trajectory in (first, second):
        trajectory.text = "How many pens?"
        trajectory.token_ids, trajectory.sampled = ids, [True] * (len(ids) - 1) + [False]
        trajectory.logprobs, trajectory.versions = [-1.0] * len(ids), [0] * len(ids)
    second.sampled = [True] * len(ids)
    fates = [TokenFate.TRAINED] * (len(ids) - 2) + [TokenFate.BOUNDED]
    all_masked = bytes([TokenFate.MASKED]) * len(ids)
    write_rollouts(run, 1, [group], [], token_fates={(group.id, 0): bytes(fates), (group.id, 1): all_masked})

    (answers,) = [g["answers"] for g in report(run).data() if g["id"] == group.id and not g["heldOut"]]
    texts = [tokenizer.decode(part) for part in (ids[:-2], ids[-2:-1], ids[-1:])]
    counts = [len(ids) - 2, 1, 1]
    assert answers[0]["fates"] == [list(s) for s in zip(texts, ["trained", "bounded", None], counts, strict=True)]
    assert answers[1]["fates"] == [[None, "masked", len(ids)]]
    assert all(answer["fates"] is None for answer in answers[2:])


# ---------------------------------------------------------------- charts and samples


def test_of_a_step_logged_twice_the_later_line_counts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with MetricLog(run) as log:
        for step, value in ((2, 0.1), (3, 0.2), (2, 0.5)):
            log.log(step, {"reward/mean": value})
    assert series(read_metrics(run.metrics), "reward/mean") == {2: 0.5, 3: 0.2}


def test_long_curves_are_means_of_equal_spans() -> None:
    steps, heights = averaged({step: float(step % 2) for step in range(1000)}, 100)
    assert len(steps) == 100
    assert steps[0] == sum(range(10)) / 10
    assert set(heights) == {0.5}


def test_a_long_run_draws_a_small_page() -> None:
    records = [
        MetricRecord(i, float(i), {"reward/mean": i % 7, "time/step_s": 1.0, "time/learn_s": 0.5})
        for i in range(20_000)
    ]
    assert sum(len(chart.svg) for chart in draw_charts(records)) < 100_000


def test_labels_of_small_numbers_differ() -> None:
    (chart,) = draw_charts([MetricRecord(i, 0.0, {"learner/mismatch_kl": i * 1e-5}) for i in range(9)])
    labels = re.findall(r">([\d.e-]+)</text>", chart.svg)
    assert "5.00e-05" in labels
    assert len(set(labels) - {"0"}) == len(labels) - labels.count("0")


def test_evenly_keeps_both_ends() -> None:
    assert evenly(list(range(101)), 5) == [0, 25, 50, 75, 100]
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly([1, 2, 3], 1) == [3]
