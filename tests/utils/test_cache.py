"""The cache on disk: built once, verified, safe against failures and concurrent builds."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from tril_gym.utils import cache
from tril_gym.utils.cache import cached_folder


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIL_GYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """A build function that writes two files and counts its calls."""

    def __init__(self):
        self.built = 0

    def __call__(self, folder):
        self.built += 1
        (folder / "sub").mkdir()
        (folder / "weights.bin").write_bytes(b"weights")
        (folder / "sub" / "more.json").write_text("{}")


def test_built_once_and_found_again(cache_folder):
    build = Builder()
    folder = cached_folder("model", "abc", build)
    assert folder == cache_folder / "model" / "abc"
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert cached_folder("model", "abc", build) == folder
    assert build.built == 1
    assert list((cache_folder / "model").iterdir()) == [folder]  # no leftovers


def test_each_key_has_its_own_folder():
    build = Builder()
    assert cached_folder("model", "abc", build) != cached_folder("model", "abd", build)
    assert build.built == 2


def change(folder):
    (folder / "weights.bin").write_bytes(b"weightz")


def remove(folder):
    (folder / "sub" / "more.json").unlink()


def add(folder):
    (folder / "stray.bin").write_bytes(b"")


def truncate_the_manifest(folder):
    manifest = folder / cache.MANIFEST
    manifest.write_text(manifest.read_text()[:-5])


def remove_the_manifest(folder):
    (folder / cache.MANIFEST).unlink()


@pytest.mark.parametrize("damage", [change, remove, add, truncate_the_manifest, remove_the_manifest])
def test_a_damaged_folder_is_built_again(damage, cache_folder):
    build = Builder()
    folder = cached_folder("model", "abc", build)
    damage(folder)
    assert cached_folder("model", "abc", build) == folder
    assert build.built == 2
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert not (folder / "stray.bin").exists()
    assert list((cache_folder / "model").iterdir()) == [folder]


def test_a_failed_build_leaves_nothing_behind(cache_folder):
    def fail(folder):
        (folder / "weights.bin").write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_folder("model", "abc", fail)
    assert list((cache_folder / "model").iterdir()) == []


def test_one_of_several_threads_builds_and_the_others_wait(caplog):
    """Threads lock each other out as processes do."""
    begun, go_on, builds = threading.Event(), threading.Event(), []

    def build(folder):
        builds.append(folder)
        begun.set()
        assert go_on.wait(30)
        (folder / "weights.bin").write_bytes(b"weights")

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cached_folder, "model", "abc", build)
        assert begun.wait(30)
        others = [pool.submit(cached_folder, "model", "abc", build) for _ in range(2)]
        while caplog.text.count("another process is building model of the cache; waiting") < 2:
            time.sleep(0.01)
        assert not any(other.done() for other in others)
        go_on.set()
        assert {first.result(30), *(other.result(30) for other in others)} == {builds[0].parents[1] / "abc"}
    assert len(builds) == 1


BUILD_AND_DIE = """
import os, sys
from tril_gym.utils.cache import cached_folder
def build(folder):
    (folder / "half.bin").write_bytes(b"half")
    os.kill(os.getpid(), 9)
cached_folder("model", "abc", build)
"""


def test_what_a_killed_build_left_is_removed(cache_folder):
    subprocess.run([sys.executable, "-c", BUILD_AND_DIE], check=False)
    (left,) = (cache_folder / "model").iterdir()
    assert [path.name for path in left.rglob("*.bin")] == ["half.bin"]
    folder = cached_folder("model", "abc", Builder())
    assert list((cache_folder / "model").iterdir()) == [folder]
    other = cache_folder / "model" / ".abd.left"
    other.mkdir()
    folder.rename(cache_folder / "model" / "gone")
    cached_folder("model", "abc", Builder())
    assert other.exists(), "of another key, which another process may be building"


def test_a_file_system_without_locks_is_used_without(cache_folder, monkeypatch):
    def acquire(self, *args, **keywords):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    assert (cached_folder("model", "abc", Builder()) / "weights.bin").exists()


def test_the_first_of_two_builds_without_locks_is_kept(monkeypatch):
    monkeypatch.setattr(cache, "_build_lock", lambda kind, key: nullcontext(False))
    late, early = Builder(), Builder()

    def interrupted(folder):
        cached_folder("model", "abc", early)
        late(folder)
        (folder / "late.txt").write_text("late")

    folder = cached_folder("model", "abc", interrupted)
    assert (early.built, late.built) == (1, 1)
    assert not (folder / "late.txt").exists()
    assert json.loads((folder / cache.MANIFEST).read_text()).keys() == {"weights.bin", "sub/more.json"}


def test_an_unwritable_cache_names_the_variable(cache_folder, monkeypatch):
    cache_folder.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="TRIL_GYM_CACHE"):
        cached_folder("model", "abc", Builder())


def test_the_folder_of_the_cache(monkeypatch, tmp_path):
    assert cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("TRIL_GYM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root() == tmp_path / "xdg" / "tril_gym"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "tril_gym"
