"""Signals: the first asks for a stop, the second stops at once; ignored ones and handlers of others stay."""

import os
import signal
import threading

import pytest

from tril_gym.utils.interrupt import SIGNALS, Interrupted, StoppedAtOnce, exit_code_of, stop_at_once, stop_signal


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_asks_second_raises(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with stop_signal() as asked:
        assert not asked()
        send(number)
        assert asked()
        assert asked.number == number
        with pytest.raises(StoppedAtOnce) as stop:
            send(number)
    assert exit_code_of(stop.value) == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_four_signals_are_handled():
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1} == set(SIGNALS)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_an_ignored_signal_stays_ignored(number, monkeypatch):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_signal() as asked, stop_at_once():
            send(number)
            assert not asked()
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_handler_of_the_host_is_kept():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with stop_signal() as asked:
            send(signal.SIGTERM)
            assert (received, asked()) == ([signal.SIGTERM], False)
            send(signal.SIGUSR1)  # the others are still ours
            assert asked()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_loop_the_first_stops_at_once():
    with stop_at_once():
        with pytest.raises(StoppedAtOnce, match="SIGTERM"):
            send(signal.SIGTERM)
        with stop_signal() as asked:  # within, it asks
            send(signal.SIGTERM)
            assert asked()
        with pytest.raises(StoppedAtOnce):
            send(signal.SIGUSR1)


def test_exit_codes():
    assert exit_code_of(Interrupted("stopped")) == exit_code_of(KeyboardInterrupt()) == 130
    assert exit_code_of(Interrupted("stopped", signal.SIGTERM)) == 143


def test_other_threads_never_stop():
    found = []

    def work():
        with stop_signal() as asked:
            found.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
