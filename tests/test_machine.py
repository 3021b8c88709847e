"""The cores and the memory that a process may use, on machines as Linux describes them."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ggserve import machine
from ggserve.machine import free_cores, usable_cores, usable_memory


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the descriptions of a machine: eight CPUs in a container without limits."""
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "_DEVICES", tmp_path / "devices")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def describe_cores(described: Path, *siblings: str) -> None:
    for cpu, text in enumerate(siblings):
        write(described / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{text}\n")


def test_cores_are_free_that_other_threads_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for runnable, free in [(1, 8), (3, 6), (8, 1), (20, -11)]:
        monkeypatch.setattr(machine, "_text", lambda path, runnable=runnable: f"0.20 0.18 0.12 {runnable}/80 11206")
        assert free_cores() == free
    monkeypatch.setattr(machine, "_text", lambda path: "")
    assert free_cores() is None


def test_free_cores_are_unknown_to_a_process_that_is_limited_to_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 3})
    assert free_cores() is None


def test_threads_that_share_a_core_count_once(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores() == 8  # nothing is known of them
    describe_cores(described, *["0,4", "1,5", "2,6", "3,7"] * 2)
    assert usable_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 4, 5})
    assert usable_cores() == 2


def test_small_cores_do_not_count(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe_cores(described, "0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7")
    write(described / "devices/cpu_core/cpus", "0-3\n")
    assert usable_cores() == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {4, 5, 6})
    assert usable_cores() == 3  # there are no others


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_the_time_of_a_container_limits_the_cores(described: Path, limit: str, expected: int) -> None:
    write(described / "groups/cpu.max", f"{limit}\n")
    assert usable_cores() == expected


def test_the_lowest_limit_of_a_service_and_what_it_is_in_counts(described: Path) -> None:
    write(described / "own", "1:name=systemd:/old\n0::/system.slice/ggserve.service\n")
    write(described / "groups/system.slice/ggserve.service/memory.max", "max\n")
    assert usable_memory() == psutil.virtual_memory().total
    write(described / "groups/system.slice/memory.max", "1000000\n")
    write(described / "groups/system.slice/ggserve.service/memory.max", "2000000\n")
    assert usable_memory() == 1_000_000
    (described / "own").unlink()  # no control groups at all
    assert usable_memory() == psutil.virtual_memory().total


def test_limits_of_control_groups_of_the_first_version(described: Path) -> None:
    write(described / "own", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n")
    write(described / "groups/cpu/docker/abc/cpu.cfs_quota_us", "-1\n")
    write(described / "groups/cpu/docker/abc/cpu.cfs_period_us", "100000\n")
    write(described / "groups/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert usable_cores() == 8
    assert usable_memory() == psutil.virtual_memory().total
    write(described / "groups/cpu/docker/abc/cpu.cfs_quota_us", "300000\n")
    write(described / "groups/memory/docker/abc/memory.limit_in_bytes", "1000000\n")
    assert usable_cores() == 3
    assert usable_memory() == 1_000_000


def test_the_limit_of_addresses_counts(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + 500_000_000, resource.RLIM_INFINITY))
    assert abs(usable_memory() - 500_000_000) < 100_000_000


FREED_IN_THREADS = """
import threading, psutil
from ggserve.machine import give_back_memory, return_large_blocks

def work():
    for _ in range(4):
        together.wait()
        block = b"a" * 30_000_000
        together.wait()
        del block
    together.wait()

return_large_blocks()
before = psutil.Process().memory_info().rss
together = threading.Barrier(4)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
give_back_memory()
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_blocks_that_threads_free_are_given_back():
    done = subprocess.run([sys.executable, "-c", FREED_IN_THREADS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20_000_000
