"""The lock of a run folder: one process at a time; stale locks are taken over, and the message says when."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from tril_gym.experiment import lock as lock_module
from tril_gym.experiment.lock import LOCK, LockedError, RunLock


def write_lock(folder, *, age=0.0, **changes):
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": "another time", "token": "t"} | changes
    (folder / LOCK).write_text(json.dumps(owner))
    then = time.time() - age
    os.utime(folder / LOCK, (then, then))


def test_a_second_lock_is_refused(tmp_path):
    held = RunLock(tmp_path)
    with pytest.raises(LockedError, match=rf"in use by process {os.getpid()} of .* on this machine.*--force-unlock"):
        RunLock(tmp_path)
    held.release()
    RunLock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_refused(tmp_path):
    held = RunLock(tmp_path)
    code = f"from tril_gym.experiment.lock import RunLock; from pathlib import Path; RunLock(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"LockedError: {tmp_path} is in use by process {os.getpid()}" in done.stderr
    held.release()


def test_the_lock_of_a_dead_process_is_taken(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write_lock(tmp_path, pid=process.pid)
    RunLock(tmp_path).release()


def test_a_process_with_the_number_of_a_dead_one_is_another(tmp_path):
    write_lock(tmp_path)  # our number, but another start
    RunLock(tmp_path).release()


def test_another_host_is_stale_after_five_minutes(tmp_path):
    write_lock(tmp_path, host="elsewhere", age=200)
    with pytest.raises(
        LockedError, match=r"process \d+ of elsewhere, whose last sign of life is 20\d s old.*free at"
    ) as e:
        RunLock(tmp_path)
    free = time.strftime("%H:%M", time.localtime(time.time() + 100))
    later = time.strftime("%H:%M", time.localtime(time.time() + 101))
    assert free in str(e.value) or later in str(e.value)
    write_lock(tmp_path, host="elsewhere", age=301)
    RunLock(tmp_path).release()


def test_force_takes_the_lock_and_the_other_notices(tmp_path):
    first = RunLock(tmp_path)
    first.check()
    second = RunLock(tmp_path, force=True)
    with pytest.raises(LockedError, match="writes no more"):
        first.check()
    first.release()
    second.check()  # releasing the lost lock has not freed the other
    second.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '{"host":"h","pid":"x","started":"","token":""}'])
def test_a_garbled_lock_is_free(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    RunLock(tmp_path).release()


def test_a_lock_shows_signs_of_life_and_ends_its_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "HEARTBEAT", 0.01)
    before = threading.active_count()
    held = RunLock(tmp_path)
    assert threading.active_count() == before + 1
    os.utime(tmp_path / LOCK, (0, 0))
    for _ in range(500):
        if (tmp_path / LOCK).stat().st_mtime > 0:
            break
        time.sleep(0.01)
    else:
        pytest.fail("no sign of life")
    held.release()
    assert threading.active_count() == before


def test_a_forgotten_lock_is_released(tmp_path):
    RunLock(tmp_path)
    assert list(tmp_path.iterdir()) == []
