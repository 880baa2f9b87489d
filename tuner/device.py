"""
What hardware is here, found out without importing torch.

    >>> this_device().kind in ("cuda", "mps", "cpu")
    True

CUDA through nvidia-smi (part of NVIDIA's driver), Apple's GPU by platform, otherwise the CPU,
within the memory and cores that a container's cgroup grants. TUNER_DEVICE=cpu leaves a GPU unused.
On a ZeroGPU Space (https://huggingface.co/docs/hub/spaces-zerogpu) there is a GPU only within one
call of the page's process (chat/zero_gpu.py), so for everybody else this is a machine without one.
Not covered: AMD and Intel GPUs, MIG slices (seen as their whole card), memory of other machines.
"""

import functools
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Kind = Literal["cuda", "mps", "cpu"]

MIB = 2**20
NVIDIA_SMI = "nvidia-smi --query-gpu=name,memory.total,memory.free,compute_cap"
NATIVE_BF16_CAPABILITY = 8.0  # Ampere; a T4 (7.5) only emulates it, slowly
CPU_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # `bf16` is Arm's name

# What a training process is started with, as both are read once, when a process begins. Measured in
# docs/EXPERIMENTS.md; other C libraries and OpenMP runtimes ignore them.
TRAINING_ENVIRONMENT = {
    # glibc keeps the slivers that aligned allocations leave behind in caches of their own, where
    # they keep freed tensors from being joined; and what was freed once it hands out in pieces,
    # instead of giving it back to the system. The peak is then a quarter higher.
    "GLIBC_TUNABLES": "glibc.malloc.mxfast=0:glibc.malloc.tcache_count=0"
    ":glibc.malloc.mmap_threshold=4194304:glibc.malloc.trim_threshold=67108864",
    # Threads that wait by spinning take the cores from any other process that computes: here they
    # sleep after some microseconds instead of a millisecond.
    "GOMP_SPINCOUNT": "1000",
}

NO_TRAINING_ON_ZERO_GPU = (
    "Nothing can be trained on this Space: it runs on ZeroGPU, which lends a GPU for a minute or "
    "two at a time. Duplicate the Space and give the copy a GPU of its own, which is paid by the "
    "hour; or train on your own machine: download the recipe under “All settings” and run "
    "`python -m tuner train --recipe recipe.yaml` there, or run the training script that a "
    "finished run exports."
)

# Dense bf16 (fp16 for cards without bf16) tensor-core TFLOP/s, from NVIDIA's data sheets
# (nvidia.com/en-us/data-center/..., GeForce RTX whitepapers). The first name contained wins, if no
# digit follows: an A1000 is no A100.
GPU_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX A6000": 155,
    "V100": 125,
    "T4": 65,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 4070": 58,
    "RTX 4060": 30,
    "RTX 3090": 71,
    "RTX 3080": 60,
    "RTX 3060": 26,
}
UNKNOWN_GPU_TFLOPS = 50
APPLE_GPU_TFLOPS = 5  # fp32, an M2 Pro's 16 cores: 6.8 on paper


@dataclass(frozen=True)
class Device:
    """One machine as a training run sees it; with several GPUs, the one with least free memory.

    Args:
        memory_bytes, available_bytes: Of one GPU, or of the machine (or container) for cpu and mps.
        bf16: The hardware computes in bfloat16 by itself.
        cores: CPU cores that may be used.
        count: Devices of this kind; 1 for cpu and mps.
    """

    kind: Kind
    name: str
    memory_bytes: int
    available_bytes: int
    bf16: bool
    cores: int
    count: int


def this_device() -> Device:
    """Look at the hardware. Memory in use changes, so nothing is cached."""
    if os.environ.get("TUNER_DEVICE", "").lower() == "cpu":
        return _cpu()
    return _cuda() or _mps() or _cpu()


def on_zero_gpu() -> bool:
    """Whether this is a ZeroGPU Space: a GPU is lent for seconds, and there is none between."""
    return os.environ.get("SPACES_ZERO_GPU", "").strip().lower() in ("1", "t", "true")


def training_refused() -> str | None:
    """Why nothing can be trained on this machine, and what to do instead; None where it can."""
    return NO_TRAINING_ON_ZERO_GPU if on_zero_gpu() else None


def matmul_flops(device: Device | None = None) -> float:
    """Multiply-adds times two that `device` (by default, this one) reaches per second.

    On a CPU this is measured on one core, once per process, in 0.05 s; on a GPU it is the data
    sheet's.
    """
    device = device or this_device()
    if device.kind == "cpu":
        return device.cores * _flops_of_one_core()
    if device.kind == "mps":
        return APPLE_GPU_TFLOPS * 1e12
    named = (
        tflops for name, tflops in GPU_TFLOPS.items() if re.search(rf"{name}(?!\d)", device.name)
    )
    return next(named, UNKNOWN_GPU_TFLOPS) * 1e12


def cpu_limits(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> tuple[int, int, int]:
    """Total bytes, available bytes and cores, as the narrowest cgroup of this process allows.

    Both versions of cgroups. Pages of files that the kernel can drop count as available.
    """
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    cores = _allowed_cores()
    for folder in _cgroup_folders(root, membership):
        limit = _limit(folder, "memory.max", "memory.limit_in_bytes")
        if limit is not None and limit < memory.total:
            total = min(total, limit)
            available = min(available, max(0, limit - _in_use(folder)))
        cores = min(cores, _core_quota(folder))
    return total, available, cores


def _cuda() -> Device | None:
    cards = list(_nvidia_cards())
    if not cards:
        return None
    name, total, free, capability = min(cards, key=lambda card: card[2])
    bf16 = capability >= NATIVE_BF16_CAPABILITY
    return Device("cuda", name, total, free, bf16, _allowed_cores(), len(cards))


def _nvidia_cards() -> Iterator[tuple[str, int, int, float]]:
    """Name, total bytes, free bytes and compute capability of each card that may be used."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1"}:
        return
    chosen = [f"--id={visible.strip()}"] if visible else []
    for line in _output([*NVIDIA_SMI.split(), "--format=csv,noheader,nounits", *chosen]):
        fields = [field.strip() for field in line.split(",")]
        try:
            name, total, free, capability = fields
            yield name, int(total) * MIB, int(free) * MIB, float(capability)
        except ValueError:
            continue  # a driver's warning, or a card that shares the machine's memory: [N/A]


def _mps() -> Device | None:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    memory = psutil.virtual_memory()
    name = next(iter(_output(["sysctl", "-n", "machdep.cpu.brand_string"])), "Apple GPU")
    # training/model.py trains in float32 on Apple's GPU, so bf16 is not offered.
    return Device("mps", name, memory.total, memory.available, False, _allowed_cores(), 1)


def _cpu() -> Device:
    total, available, cores = cpu_limits()
    return Device("cpu", _cpu_name(), total, available, _cpu_has_bf16(), cores, 1)


def _cpu_name() -> str:
    return next(_cpuinfo("model name"), platform.processor() or platform.machine() or "CPU")


def _cpu_has_bf16() -> bool:
    flags = next(_cpuinfo("flags"), None) or next(_cpuinfo("Features"), "")
    return not CPU_BF16_FLAGS.isdisjoint(flags.split())


def _cpuinfo(field: str) -> Iterator[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            yield value.strip()


def _output(command: list[str]) -> list[str]:
    """Lines of a program's output; none if it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_folders(root: Path, membership: Path) -> Iterator[Path]:
    """Folders that may hold this process's limits: its own group's and every parent's."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount = root / controllers if controllers else root
        group = mount / path.lstrip("/")
        yield mount
        yield from (folder for folder in (group, *group.parents) if mount in folder.parents)


def _limit(folder: Path, *names: str) -> int | None:
    """The first of these files that holds a number; `max` (no limit) is none."""
    for name in names:
        try:
            return int((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return None


def _in_use(folder: Path) -> int:
    """Bytes of a group that the kernel could not free by dropping cached files."""
    used = _limit(folder, "memory.current", "memory.usage_in_bytes") or 0
    try:
        statistics = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return used
    fields = dict(line.split(maxsplit=1) for line in statistics if " " in line)
    droppable = int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))
    return max(0, used - droppable)


def _core_quota(folder: Path) -> int:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        quota = str(_limit(folder, "cpu.cfs_quota_us") or -1)
        period = str(_limit(folder, "cpu.cfs_period_us") or 100_000)
    unlimited = quota == "max" or int(quota) <= 0
    return _allowed_cores() if unlimited else max(1, math.ceil(int(quota) / int(period)))


@functools.cache
def _flops_of_one_core() -> float:
    import numpy as np  # here, so that looking at the hardware stays cheap

    # So small that one thread does it, in 6 microseconds: the best of thousands is not disturbed
    # by whatever else the machine does. Threads that wait for each other would measure just that.
    size = 64
    matrix = np.ones((size, size), dtype=np.float32)
    product = np.empty_like(matrix)
    best, end = float("inf"), time.perf_counter() + 0.05
    while (start := time.perf_counter()) < end:
        np.matmul(matrix, matrix, out=product)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
