"""What the hardware is: cgroups written to disk, and an nvidia-smi that says what it is told to."""

import os
import platform
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tuner.device import Device, cpu_limits, matmul_flops, this_device

MIB = 2**20
LIMIT = 64 * MIB  # less than any machine has
ENDLESS = 2**63 - 4096  # how the first version of cgroups writes "no limit"
T4 = "Tesla T4, 15360, 14900, 7.5"
A100 = "NVIDIA A100-SXM4-80GB, 81920, 81100, 8.0"
H100 = "NVIDIA H100 80GB HBM3, 81559, 81000, 9.0"

Limits = Callable[..., tuple[int, int, int]]
Program = Callable[..., Path]


@pytest.fixture
def limits(tmp_path: Path) -> Limits:
    """cpu_limits of a tree: its files by path, and the process's memberships, one a line."""

    def of(files: dict[str, object], *memberships: str) -> tuple[int, int, int]:
        root = tmp_path / "cgroup"
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"{text}\n")
        (tmp_path / "membership").write_text("".join(f"{line}\n" for line in memberships))
        return cpu_limits(root, tmp_path / "membership")

    return of


@pytest.fixture
def machine(tmp_path: Path) -> tuple[int, int]:
    """Bytes and cores of this machine, whatever its own cgroups say."""
    total, _, cores = cpu_limits(tmp_path / "nothing", tmp_path / "none")
    return total, cores


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a program on the PATH; returns the file that will hold the arguments it was run with."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("TUNER_DEVICE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def named(name: str, *lines: str | bytes, code: int = 0) -> Path:
        told = [line if isinstance(line, bytes) else line.encode() for line in lines]
        (tmp_path / f"{name}.says").write_bytes(b"".join(line + b"\n" for line in told))
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\nprintf %s "$*" > "$0.asked"\ncat "$0.says"\nexit {code}\n')
        script.chmod(0o755)
        return tmp_path / f"{name}.asked"

    return named


@pytest.fixture
def cards(program: Program) -> Program:
    return lambda *lines, code=0: program("nvidia-smi", *lines, code=code)


def test_without_cgroups_the_whole_machine_counts(limits, machine):
    memory = psutil.virtual_memory()
    total, available, cores = limits({}, "0::/")
    assert (total, cores) == machine
    assert total == memory.total and 1 <= cores <= (os.cpu_count() or 1)
    assert 0 < available <= total


def test_a_machine_that_has_no_list_of_groups_counts_whole(tmp_path, machine):
    total, _, cores = cpu_limits(tmp_path, tmp_path / "none")
    assert (total, cores) == machine


def test_the_second_version_limits_memory_and_cores(limits):
    files = {
        "box/memory.max": LIMIT,
        "box/memory.current": 40 * MIB,
        "box/memory.stat": f"anon 123\ninactive_file {10 * MIB}\nactive_file 456",
        "box/cpu.max": "100000 100000",
    }
    # 10 of the 40 MiB in use are pages of files, which the kernel drops when it must.
    assert limits(files, "0::/box") == (LIMIT, LIMIT - 30 * MIB, 1)


def test_the_first_version_limits_memory_and_cores(limits):
    files = {
        "memory/box/memory.limit_in_bytes": LIMIT,
        "memory/box/memory.usage_in_bytes": 40 * MIB,
        "memory/box/memory.stat": f"inactive_file 5\ntotal_inactive_file {10 * MIB}",
        "cpu,cpuacct/box/cpu.cfs_quota_us": 50_000,
        "cpu,cpuacct/box/cpu.cfs_period_us": 100_000,
    }
    memberships = ["11:memory:/box", "4:cpu,cpuacct:/box", "1:name=systemd:/box", "0::/"]
    assert limits(files, *memberships) == (LIMIT, LIMIT - 30 * MIB, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_inside_a_container_its_own_group_is_the_root(limits, version):
    if version == 1:
        files = {"memory/memory.limit_in_bytes": LIMIT, "cpu/cpu.cfs_quota_us": 100_000}
        memberships = ["3:memory:/docker/4f9c", "2:cpu:/docker/4f9c"]  # a path of the host's
    else:
        files = {"memory.max": LIMIT, "cpu.max": "100000 100000"}
        memberships = ["0::/"]
    assert limits(files, *memberships) == (LIMIT, LIMIT, 1)


@pytest.mark.parametrize("narrow", ["a", "a/b", "a/b/c"])
def test_of_nested_groups_the_narrowest_counts(limits, narrow):
    files: dict[str, object] = {f"{group}/memory.max": 2 * LIMIT for group in ("a", "a/b", "a/b/c")}
    files |= {f"{narrow}/memory.max": LIMIT, f"{narrow}/cpu.max": "10000 100000"}
    assert limits(files, "0::/a/b/c") == (LIMIT, LIMIT, 1)


def test_a_parent_that_is_nearly_full_leaves_little_available(limits):
    files = {
        "a/memory.max": 2 * LIMIT,
        "a/memory.current": 2 * LIMIT - MIB,
        "a/b/memory.max": LIMIT,
        "a/b/memory.current": 0,
    }
    assert limits(files, "0::/a/b")[:2] == (LIMIT, MIB)


def test_a_group_above_its_limit_has_nothing_available_rather_than_less(limits):
    files = {"memory.max": LIMIT, "memory.current": 2 * LIMIT}
    assert limits(files, "0::/")[:2] == (LIMIT, 0)


def test_groups_of_other_processes_do_not_count(limits, machine):
    total, _, cores = limits({"other/memory.max": LIMIT, "a/other/cpu.max": "1 1"}, "0::/a")
    assert (total, cores) == machine


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "max", "cpu.max": "max 100000"},
        {"memory/memory.limit_in_bytes": ENDLESS, "cpu/cpu.cfs_quota_us": -1},
        {"memory.max": "", "cpu.max": ""},
        {"memory.max": 2**60, "cpu.max": "100000000 100000"},
    ],
    ids=["max", "first version", "empty", "more than there is"],
)
def test_no_limit_is_no_limit(limits, machine, files):
    total, available, cores = limits(files, "3:memory:/", "2:cpu:/", "0::/")
    assert (total, cores) == machine
    assert available > 0


@pytest.mark.parametrize(
    ("quota", "cores"), [("1000", 1), ("100000", 1), ("150000", 2), ("200000", 2), ("250000", 3)]
)
def test_a_part_of_a_core_counts_as_one(limits, machine, quota, cores):
    expected = min(cores, machine[1])
    assert limits({"cpu.max": f"{quota} 100000"}, "0::/")[2] == expected
    assert limits({"cpu/cpu.cfs_quota_us": quota}, "2:cpu:/")[2] == expected  # the usual period


def test_a_card_is_what_nvidia_smi_says(cards, machine):
    asked = cards(A100)
    assert this_device() == Device(
        kind="cuda",
        name="NVIDIA A100-SXM4-80GB",
        memory_bytes=81920 * MIB,
        available_bytes=81100 * MIB,
        bf16=True,
        cores=machine[1],
        count=1,
    )
    assert asked.read_text() == (
        "--query-gpu=name,memory.total,memory.free,compute_cap --format=csv,noheader,nounits"
    )


def test_of_several_cards_the_one_with_least_free_memory_counts(cards):
    cards(H100, "NVIDIA H100 80GB HBM3, 81559, 2000, 9.0", H100)
    device = this_device()
    assert (device.available_bytes, device.count) == (2000 * MIB, 3)


@pytest.mark.parametrize(
    ("line", "bf16"),
    [
        (T4, False),
        ("Tesla V100-SXM2-16GB, 16384, 16000, 7.0", False),
        (A100, True),
        ("NVIDIA GeForce RTX 3060, 12288, 12000, 8.6", True),
        (H100, True),
        ("NVIDIA GeForce RTX 5090, 32607, 32000, 12.0", True),
    ],
)
def test_cards_before_ampere_have_no_bf16(cards, line, bf16):
    cards(line)
    assert this_device().bf16 is bf16


def test_warnings_and_cards_without_memory_of_their_own_are_passed_over(cards):
    cards(
        "WARNING: infoROM is corrupted at gpu 0000:3B:00.0",
        "Warnung: Treiber f\xfcr Karte 1, veraltet".encode("latin-1"),
        "",
        "NVIDIA GB10, [N/A], [N/A], 12.1",
        "Quadro K600, 1024, [Not Supported], 3.0",
        T4,
    )
    device = this_device()
    assert (device.name, device.count) == ("Tesla T4", 1)


@pytest.mark.parametrize("chosen", ["", "-1", " ", " -1 "])
def test_cards_that_are_hidden_are_not_even_asked_for(cards, monkeypatch, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    asked = cards(A100)
    assert this_device().kind != "cuda"
    assert not asked.exists()


@pytest.mark.parametrize("chosen", ["1", "0,2", "GPU-5a1fb6c2-4e3d-4f0e-9a39-7d3c1f1b2a10"])
def test_only_cards_that_may_be_used_are_asked_for(cards, monkeypatch, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    asked = cards(A100)
    assert this_device().kind == "cuda"
    assert asked.read_text().endswith(f" --id={chosen}")


@pytest.mark.parametrize("wish", ["cpu", "CPU"])
def test_a_card_stays_unused_on_request(cards, monkeypatch, wish):
    monkeypatch.setenv("TUNER_DEVICE", wish)
    asked = cards(A100)
    device = this_device()
    assert (device.kind, device.count) == ("cpu", 1)
    assert device.name and 0 < device.available_bytes <= device.memory_bytes and device.cores >= 1
    assert not asked.exists()


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["NVIDIA-SMI has failed because it couldn't communicate with the driver."], 9),
        ([A100], 1),
        (["No devices were found"], 0),
        ([], 0),
    ],
    ids=["no driver", "failed half-way", "no card", "nothing"],
)
def test_a_driver_without_a_card_is_no_card(cards, lines, code):
    cards(*lines, code=code)
    assert this_device().kind != "cuda"


def test_a_machine_without_nvidias_driver_has_no_card(program, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_device().kind != "cuda"


@pytest.mark.parametrize(("lines", "name"), [(["Apple M2 Pro"], "Apple M2 Pro"), ([], "Apple GPU")])
def test_apples_gpu_shares_the_machines_memory_and_offers_no_bf16(
    program, monkeypatch, lines, name
):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    program("nvidia-smi")
    program("sysctl", *lines)
    device = this_device()
    assert (device.kind, device.name, device.bf16, device.count) == ("mps", name, False, 1)
    assert device.memory_bytes == psutil.virtual_memory().total


def gpu(name: str) -> Device:
    return Device("cuda", name, 0, 0, True, 1, 1)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA B200", 2250),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA RTX A6000", 155),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 3080 Ti", 60),
    ],
)
def test_a_known_card_is_as_fast_as_its_data_sheet_says(name, tflops):
    assert matmul_flops(gpu(name)) == tflops * 1e12


@pytest.mark.parametrize(
    "name",
    ["NVIDIA RTX A1000 Laptop GPU", "NVIDIA T400 4GB", "NVIDIA GeForce GTX 1080", "NVIDIA X1", ""],
)
def test_an_unknown_card_is_not_taken_for_one_whose_name_begins_alike(name):
    assert matmul_flops(gpu(name)) == 50e12


def test_a_processor_is_measured_once():
    processor = Device("cpu", "any", 0, 0, False, 1, 1)
    measured = matmul_flops(processor)
    assert 1e8 < measured < 1e15
    assert matmul_flops(processor) == measured


def test_without_a_device_this_one_is_meant(cards, monkeypatch):
    cards(T4)
    assert matmul_flops() == 65e12
    monkeypatch.setenv("TUNER_DEVICE", "cpu")
    assert matmul_flops() == matmul_flops(this_device())


def test_apples_gpu_has_one_speed():
    assert matmul_flops(Device("mps", "Apple M2", 0, 0, False, 1, 1)) == 5e12
