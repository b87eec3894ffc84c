"""What the machines can do that a run is planned for."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

GIB = 2**30
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One GPU, or the processor of this machine.

    `memory` in bytes is about what torch reports, a little less than the maker's figure. `bandwidth` is of that memory,
    in bytes per second. Operations per second are dense, without the factor of two for sparse matrices.
    `engine_step_s` is the least time between two tokens of a sequence, however small the model.
    """

    name: str
    memory: int
    bandwidth: float
    bfloat16_flops: float
    float32_flops: float
    engine_step_s: float
    source: str

    @property
    def is_cpu(self) -> bool:
        return self.name == CPU

    def share(self, part: float) -> Accelerator:
        """A part of its cores: what one role of several has."""
        return replace(
            self,
            bandwidth=self.bandwidth * part,
            bfloat16_flops=self.bfloat16_flops * part,
            float32_flops=self.float32_flops * part,
        )

    def flops(self, element: int) -> float:
        """Operations per second with numbers of `element` bytes."""
        return self.float32_flops if element == 4 else self.bfloat16_flops


def _gpu(name: str, gib: float, terabytes_s: float, bfloat16: float, float32: float, source: str) -> Accelerator:
    # With CUDA graphs an engine step of a small model takes about this long, most of it on the host.
    return Accelerator(name, int(gib * GIB), terabytes_s * 1e12, bfloat16 * 1e12, float32 * 1e12, 0.006, source)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("b200", 178.0, 8.0, 2250, 75, "NVIDIA DGX B200 datasheet"),
        _gpu("h200", 139.7, 4.8, 989, 67, "NVIDIA H200 datasheet, SXM"),
        _gpu("h100", 79.1, 3.35, 989, 67, "NVIDIA H100 datasheet, SXM"),
        _gpu("a100", 79.1, 2.039, 312, 19.5, "NVIDIA A100 80 GB datasheet, SXM"),
        _gpu("a100-40gb", 39.4, 1.555, 312, 19.5, "NVIDIA A100 40 GB datasheet, SXM"),
        _gpu("l40s", 44.4, 0.864, 362, 91.6, "NVIDIA L40S datasheet"),
        _gpu("l4", 22.0, 0.3, 121, 30.3, "NVIDIA L4 datasheet"),
        _gpu("rtx4090", 23.6, 1.008, 165, 82.6, "NVIDIA Ada architecture whitepaper"),
    )
}

# Of one x86-64 core: assumed, and about what matrix products and reads of memory reached on the cores where this
# project was measured.
_CORE_FLOPS = 60e9
_CORE_BANDWIDTH = 8e9
_CPU_ENGINE_STEP_S = 0.012


def this_machine() -> Accelerator:
    """The cores that this process may use, and the memory that there is."""
    cores = len(os.sched_getaffinity(0))
    return Accelerator(
        CPU,
        machine_memory(),
        cores * _CORE_BANDWIDTH,
        cores * _CORE_FLOPS,
        cores * _CORE_FLOPS,
        _CPU_ENGINE_STEP_S,
        f"{cores} cores, assumed {_CORE_FLOPS / 1e9:.0f} GFLOP/s and {_CORE_BANDWIDTH / 1e9:.0f} GB/s each",
    )


def machine_memory(limit_file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory that this machine, or the container it is, may use; swap is not counted."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = limit_file.read_text().strip() if limit_file.is_file() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical


def swap_space(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of swap; 0 where the system does not say."""
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("SwapTotal:")), 0)


def accelerator(name: str) -> Accelerator:
    """By name, in any case. Raises KeyError for one that is not in the table."""
    return this_machine() if name.lower() == CPU else GPUS[name.lower()]
