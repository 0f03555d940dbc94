import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from glo_lightning.locks import Lock

HOLD = "import sys, time; from pathlib import Path; from glo_lightning.locks import Lock; "
HOLD += "lock = Lock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(60)"


def refuse_flock(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=["flock", "no flock"])
def by_name(request, monkeypatch):
    """Once as most disks are, once as one without locks."""
    if request.param == "no flock":
        refuse_flock(monkeypatch)
    return request.param == "no flock"


def test_one_holds_a_lock_until_it_gives_it_up(tmp_path, by_name):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert second.holder().startswith(f"process {os.getpid()} on {socket.gethostname()}, since ")
    second.release()  # which does not have it
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_process_is_free_and_a_child_of_it_does_not_hold_it(tmp_path):
    fork = HOLD.replace("time.sleep(60)", "os.fork(); time.sleep(60)").replace("import sys", "import os, sys")
    holder = subprocess.Popen([sys.executable, "-c", fork, tmp_path / "lock"], stdout=subprocess.PIPE, text=True,
                              start_new_session=True)  # fmt: skip
    assert holder.stdout.readline() == "True\n"
    lock = Lock(tmp_path / "lock")
    assert not lock.acquire()
    assert f"process {holder.pid} " in lock.holder()
    time.sleep(0.2)  # for the fork
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    try:
        assert lock.acquire()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        lock.release()


def test_without_flock_a_dead_process_of_this_host_is_known_and_none_of_another(tmp_path, monkeypatch):
    refuse_flock(monkeypatch)
    done = subprocess.run([sys.executable, "-c", "pass"])
    assert done.returncode == 0
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    lock = Lock(tmp_path / "lock")
    lock.owner.write_text(f"process {dead.pid} on elsewhere, since 2026-01-01 00:00:00")
    assert not lock.acquire()
    assert str(lock.owner) in lock.holder()
    lock.owner.write_text(f"process {dead.pid} on {socket.gethostname()}, since 2026-01-01 00:00:00")
    assert lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())
