"""Ctrl-C: the first asks for a stop, the second stops at once."""

import os
import signal
import threading

import pytest

from tril_gym.utils.interrupt import stop_signal


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_first_interrupt_asks_second_raises():
    before = signal.getsignal(signal.SIGINT)
    with stop_signal() as asked:
        assert not asked()
        interrupt()
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_never_stop():
    found = []

    def work():
        with stop_signal() as asked:
            found.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
