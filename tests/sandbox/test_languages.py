"""Each language that this machine has: input to output, ends of its own, limits, and what a compiler says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlvr.sandbox import Limits, Program, Sandbox, Status, Tier, tools
from rlvr.sandbox.effects import drive
from rlvr.sandbox.languages import LANGUAGES, Language, Start
from rlvr.sandbox.plan import compile_plan


@dataclass(frozen=True)
class Sample:
    """`add` prints the sum of the numbers on stdin, `exit_3` ends with 3, `hoard` takes memory without end."""

    add: str
    exit_3: str
    hoard: str
    wrong: str = ""  # what does not compile, and the word that the compiler's message has
    word: bytes = b""


SAMPLES = {
    "python": Sample(
        "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
        "raise SystemExit(3)",
        "x = []\nwhile True: x.append(bytes(1 << 20))",
    ),
    "bash": Sample(
        'read -a numbers; sum=0; for n in "${numbers[@]}"; do ((sum += n)); done; echo $sum',
        "exit 3",
        "x=xxxxxxxxxxxxxxxx; while true; do x=$x$x; done",
    ),
    "c": Sample(
        '#include <stdio.h>\nint main(){long a,s=0;while(scanf("%ld",&a)==1)s+=a;printf("%ld\\n",s);}',
        "int main(){return 3;}",
        "#include <stdlib.h>\n#include <string.h>\nint main(){for(;;)memset(malloc(1<<20),1,1<<20);}",
        "int main(){return undeclared;}",
        b"undeclared",
    ),
    "cpp": Sample(
        "#include <iostream>\nint main(){long a,s=0;while(std::cin>>a)s+=a;std::cout<<s<<std::endl;}",
        "int main(){return 3;}",
        "#include <vector>\nint main(){std::vector<char*> v;for(;;)v.push_back(new char[1<<20]());}",
        "int main(){return undeclared;}",
        b"undeclared",
    ),
    "javascript": Sample(
        "const text = require('fs').readFileSync(0, 'utf8');\n"
        "console.log(text.trim().split(/\\s+/).reduce((sum, n) => sum + Number(n), 0));",
        "process.exit(3);",
        "const kept = []; while (true) kept.push(new Array(100000).fill({}));",
    ),
    "rust": Sample(
        "use std::io::Read;\nfn main() { let mut s = String::new(); std::io::stdin().read_to_string(&mut s).unwrap();\n"
        'println!("{}", s.split_whitespace().map(|n| n.parse::<i64>().unwrap()).sum::<i64>()); }',
        "fn main() { std::process::exit(3) }",
        "fn main() { let mut kept = vec![]; loop { kept.push(vec![1u8; 1 << 20]); } }",
        "fn main() { undeclared }",
        b"undeclared",
    ),
    "go": Sample(
        'package main\nimport "fmt"\nfunc main() { s, a := 0, 0\nfor { if _, e := fmt.Scan(&a); e != nil { break }\n'
        "s += a }\nfmt.Println(s) }",
        'package main\nimport "os"\nfunc main() { os.Exit(3) }',
        "package main\nvar kept [][]byte\nfunc main() { for { b := make([]byte, 1<<20)\n"
        "for i := range b { b[i] = 1 }\nkept = append(kept, b) } }",
        "package main\nfunc main() { undeclared() }",
        b"undeclared",
    ),
    "java": Sample(
        "import java.util.Scanner;\npublic class Main { public static void main(String[] a) { long s = 0;\n"
        "Scanner in = new Scanner(System.in); while (in.hasNextLong()) s += in.nextLong(); System.out.println(s); } }",
        "public class Main { public static void main(String[] a) { System.exit(3); } }",
        "import java.util.*;\npublic class Main { public static void main(String[] a) {\n"
        "List<long[]> kept = new ArrayList<>(); while (true) kept.add(new long[1 << 17]); } }",
        "public class Main { public static void main(String[] a) { undeclared(); } }",
        b"undeclared",
    ),
}


def test_each_language_has_its_sample() -> None:
    assert SAMPLES.keys() == LANGUAGES.keys()


@pytest.fixture(params=SAMPLES)
def language(request: pytest.FixtureRequest, each_tier: Sandbox) -> str:
    missing = LANGUAGES[request.param].missing(each_tier.tier)
    if missing is not None:
        pytest.skip(missing)
    name: str = request.param
    return name


def test_numbers_in_their_sum_out(each_tier: Sandbox, language: str) -> None:
    results = each_tier.run_tests(Program(SAMPLES[language].add, language), [b"1 2 39\n", b"-5 5\n"])
    assert [(result.status, result.stdout) for result in results] == [(Status.OK, b"42\n"), (Status.OK, b"0\n")]


def test_an_exit_code_is_passed_on(each_tier: Sandbox, language: str) -> None:
    result = each_tier.run(Program(SAMPLES[language].exit_3, language))
    assert (result.status, result.exit_code) == (Status.WRONG_EXIT, 3)


def test_memory_without_end_is_the_status_memory(each_tier: Sandbox, language: str) -> None:
    program = Program(SAMPLES[language].hoard, language)
    result = each_tier.run(program, limits=Limits(memory_bytes=256 << 20, wall_s=60, cpu_s=30))
    assert result.status is Status.MEMORY, result
    assert result.peak_memory_bytes < 400 << 20


def test_what_does_not_compile_says_why(sandbox: Sandbox) -> None:
    for name, sample in SAMPLES.items():
        if sample.wrong and LANGUAGES[name].missing(sandbox.tier) is None:
            result = sandbox.run(Program(sample.wrong, name))
            assert result.status is Status.COMPILE_ERROR
            assert sample.word in result.stderr + result.stdout


needs_cpp = pytest.mark.skipif(LANGUAGES["cpp"].missing() is not None, reason="no C++ compiler")
WITH_ALL_OF_IT = '#include <bits/stdc++.h>\nint main(){std::map<int,std::string> m{{1,"yes"}};std::cout<<m[1];}'


@needs_cpp
def test_the_large_header_is_compiled_once_and_then_read_so(each_tier: Sandbox) -> None:
    first, again = each_tier.run(Program(WITH_ALL_OF_IT, "cpp")), each_tier.run(Program(WITH_ALL_OF_IT + "//", "cpp"))
    assert (first.stdout, again.stdout) == (b"yes", b"yes")
    with_header, without = (
        drive(each_tier._calls._run_once(compile_plan(Program(WITH_ALL_OF_IT, "cpp"), LANGUAGES["cpp"], header), b""))
        for header in (each_tier._headers.get(LANGUAGES["cpp"]), None)
    )
    assert with_header.cpu_s < 0.7 * without.cpu_s


@needs_cpp
@pytest.mark.parametrize("before", ["#define MINE 1\n", '#pragma GCC optimize("O3")\n', "int x = 0;\n"])
def test_a_header_that_was_compiled_changes_no_program(sandbox: Sandbox, before: str) -> None:
    assert sandbox.run(Program(before + WITH_ALL_OF_IT, "cpp")).stdout == b"yes"


@needs_cpp
def test_an_error_is_where_it_is_though_a_header_was_compiled(sandbox: Sandbox) -> None:
    wrong = sandbox.run(Program("#include <bits/stdc++.h>\nint main(){undeclared();}", "cpp"))
    assert wrong.status is Status.COMPILE_ERROR and b"main.cpp:2" in wrong.stderr


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a tool of the test's own, in PATH, that anybody may enter: not in /tmp, which programs have."""
    tools.find_tool.cache_clear()
    with tempfile.TemporaryDirectory(dir="/var/cache" if os.getuid() == 0 else Path.home()) as folder:
        Path(folder).chmod(0o755)
        bin_folder = Path(folder, "shouter-1.0", "bin")
        bin_folder.mkdir(parents=True)
        monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
        yield bin_folder
    tools.find_tool.cache_clear()


SHOUTER = Language("shout", "main.shout", Start.COMMAND, command=("shouter", "main.shout"))


def install(folder: Path) -> None:
    (folder / "shouter").write_text('#!/bin/sh\nread word < "$(dirname "$0")/../share/word"; echo "$word: $(cat $1)"\n')
    (folder / "shouter").chmod(0o755)
    (folder.parent / "share").mkdir()
    (folder.parent / "share" / "word").write_text("HEAR\n")


@pytest.mark.parametrize("tier", [Tier.FULL, Tier.LANDLOCK])
def test_a_new_language_is_an_entry_and_its_tool_may_lie_anywhere_in_path(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    monkeypatch.setitem(LANGUAGES, "shout", SHOUTER)
    install(elsewhere)
    with Sandbox(slots=1, only_tier=tier) as one:
        assert one.run(Program("all", "shout")).stdout == b"HEAR: all\n"


def test_a_tool_that_is_not_there_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANGUAGES, "shout", SHOUTER)
    with Sandbox(slots=1) as one, pytest.raises(ValueError, match="'shouter' is not installed"):
        one.run(Program("all", "shout"))


@pytest.mark.skipif(os.getuid() != 0, reason="what the user can read, its programs can")
def test_a_tool_that_programs_cannot_read_is_named_with_the_folder_that_is_shut(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LANGUAGES, "shout", SHOUTER)
    install(elsewhere)
    elsewhere.parent.parent.chmod(0o700)
    with Sandbox(slots=1, only_tier=Tier.FULL) as full:
        assert full.run(Program("all", "shout")).stdout == b"HEAR: all\n", "mounted before rights were given up"
    with (
        Sandbox(slots=1, only_tier=Tier.LANDLOCK) as landlock,
        pytest.raises(ValueError, match=f"tier landlock: {elsewhere.parent.parent} is shut"),
    ):
        landlock.run(Program("all", "shout"))


def test_a_tool_in_tmp_is_refused_in_the_full_tier() -> None:
    reason = tools.unreadable("/tmp", Tier.FULL)
    assert reason is not None and "/tmp" in reason


def test_of_somebodys_own_bin_programs_see_the_tool_alone(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere.parent))
    found = tools.find_tool("shouter")
    assert found is not None and found.folder == str(elsewhere / "shouter")
