"""Signals as a request to save."""

import signal
import subprocess
import sys
import threading

import pytest

from imagereward_core.interrupts import Interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_signal_asks_and_tells_its_code(name, code):
    asked, number = [], getattr(signal, name)
    outside = signal.signal(number, signal.SIG_DFL)  # what started the tests may ignore it, as nohup does
    try:
        with Interrupts(lambda: asked.append(name)) as interrupts:
            assert interrupts.received is None
            signal.raise_signal(number)
            assert asked == [name] and interrupts.received == number
        assert interrupts.exit_code == code and signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, outside)


def test_ctrl_break_counts_as_ctrl_c(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with Interrupts(lambda: None) as interrupts:
        signal.raise_signal(signal.SIGUSR1)
    assert interrupts.exit_code == 130


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(lambda: pytest.fail("nohup was given")) as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_installed():
    seen = []

    def enter():
        with Interrupts(lambda: None) as interrupts:
            seen.append(interrupts.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]


@pytest.mark.parametrize(("grace", "code"), [(0.0, 130), (1000.0, 0)])
def test_the_second_signal_leaves_at_once_unless_it_is_an_echo(grace, code):
    program = (
        "import signal; from imagereward_core.interrupts import Interrupts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"with Interrupts(lambda: None, grace={grace}):\n"
        "    signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == code and "once more leaves at once" in done.stderr
