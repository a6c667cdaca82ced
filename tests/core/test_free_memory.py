import psutil
import pytest

from medseg.core import free_memory as module
from medseg.core.free_memory import free_memory, total_memory

MIB = 2**20


@pytest.fixture
def container(tmp_path, monkeypatch):
    """A container of 1000 MiB on a machine with 4000 MiB, 3000 of them free."""
    machine = type("Memory", (), {"available": 3000 * MIB, "total": 4000 * MIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{1000 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{700 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {500 * MIB}\ninactive_file {200 * MIB}\n")
    return tmp_path


def test_a_container_has_what_its_limit_leaves_files_in_memory_apart(container):
    assert free_memory() == 500 * MIB
    assert total_memory() == 1000 * MIB


def test_a_machine_with_less_than_the_limit_counts(container):
    (container / "memory.max").write_text(f"{9000 * MIB}\n")

    assert free_memory() == 3000 * MIB
    assert total_memory() == 4000 * MIB


def test_a_container_beyond_its_limit_has_nothing(container):
    (container / "memory.current").write_text(f"{1300 * MIB}\n")

    assert free_memory() == 0


@pytest.mark.parametrize("content", ["max\n", None])
def test_without_a_limit_the_machine_counts(container, content):
    (container / "memory.max").unlink()
    if content:
        (container / "memory.max").write_text(content)

    assert free_memory() == 3000 * MIB
    assert total_memory() == 4000 * MIB
