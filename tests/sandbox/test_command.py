"""`rlvr sandbox run` and `rlvr sandbox doctor`, as a user sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlvr.sandbox import Program, Sandbox
from rlvr.sandbox import doctor as doctor_module
from rlvr.sandbox.command import app


def rlvr_sandbox(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "program.py"
    file.write_text("import sys\nprint(input()[::-1])\nsys.exit(int(input()))")
    return file


def test_run_passes_output_on_and_says_how_it_ended(program: Path) -> None:
    done = rlvr_sandbox("run", program, "--stdin", "-", stdin="abc\n0\n")
    assert (done.exit_code, done.stdout) == (0, "cba\n")
    for fact in ("ok", "exit code 0", "wall 0.", "CPU 0.", "peak memory", "MiB", "tier "):
        assert fact in done.stderr


def test_run_reads_its_input_from_a_file_and_says_by_its_exit_code_that_all_is_not_well(
    program: Path, tmp_path: Path
) -> None:
    (tmp_path / "input").write_text("abc\n7\n")
    done = rlvr_sandbox("run", program, "--stdin", tmp_path / "input")
    assert (done.exit_code, done.stdout) == (1, "cba\n")
    assert "wrong_exit" in done.stderr and "exit code 7" in done.stderr


def test_limits_are_options(tmp_path: Path) -> None:
    (tmp_path / "program.sh").write_text("sleep 60")
    done = rlvr_sandbox("run", tmp_path / "program.sh", "--wall-s", "0.2")
    assert done.exit_code == 1
    assert "timeout (it ran for longer than 0.2 s); signal 9" in done.stderr


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("program.cob", (), "name one with --language"),
        ("program.py", ("--language", "cobol"), "unknown language 'cobol'"),
        ("program.py", ("--wall-s", "0"), "wall_s must be above 0"),
        ("program.py", ("--memory-mib", "inf"), "--memory-mib inf: expected a number of MiB"),
    ],
)
def test_what_cannot_be_is_an_error_with_a_reason(
    tmp_path: Path, name: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / name).write_text("")
    done = rlvr_sandbox("run", tmp_path / name, *options)
    assert done.exit_code == 2 and message in done.stderr


def test_a_source_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_bytes(b"print('\xff')")
    done = rlvr_sandbox("run", tmp_path / "program.py")
    assert done.exit_code == 2 and f"{tmp_path / 'program.py'}: not a text in UTF-8, from byte 7 on" in done.stderr


def test_doctor_finds_this_machine_well() -> None:
    done = rlvr_sandbox("doctor")
    assert done.exit_code == 0, done.stdout
    for word in ("kernel", "Landlock", "tier", "python", "no network", "limit on memory", "print(1)"):
        assert word in done.stdout


def test_doctor_sees_a_program_that_got_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the sandbox let every program do what it likes: each attempt prints, and no limit holds."""
    run = Sandbox.run

    def run_without_isolation(self: Sandbox, program: Program, **more: object) -> object:
        return run(self, Program("print('out')" if program.source != "pass" else "pass"))

    monkeypatch.setattr(Sandbox, "run", run_without_isolation)
    rows = [row for row in doctor_module.examine() if row.part == "self-test"]
    escaped = [row.what for row in rows if row.good is False]
    assert len(escaped) >= 10
    assert not doctor_module.show(iter(rows))
