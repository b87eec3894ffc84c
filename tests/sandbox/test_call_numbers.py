"""The numbers of system calls, of both processors, against the headers that the kernel gives to user programs.

They come with a C compiler's headers; where those are not installed there is nothing to compare with.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlvr.sandbox.syscalls import MACHINES

# aarch64 takes the numbers that are the same for all new processors; some names there are of two widths.
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
NUMBER = re.compile(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", re.MULTILINE)
OTHER_NAMES = {"newfstatat": "fstatat"}
# The same on all; in headers of Linux 6.13.
NEWER = {
    **{"fchmodat2": 452, "statmount": 457, "listmount": 458, "lsm_set_self_attr": 460},
    **{"setxattrat": 463, "removexattrat": 466},
}


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    if not HEADERS[machine].is_file():
        pytest.skip(f"no {HEADERS[machine]} (Debian: linux-libc-dev)")
    known = {name: int(number) for name, number in NUMBER.findall(HEADERS[machine].read_text())}
    ours = MACHINES[machine].numbers
    assert len(ours) > 100
    assert {name: known.get(name, known.get(OTHER_NAMES.get(name, ""), NEWER.get(name))) for name in ours} == ours
