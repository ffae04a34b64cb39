"""Signals that ask for an end: what is one request, who hears it, and what stays ignored."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tiers import slow

from cluster.host import signals as asking
from cluster.host.signals import INSISTING, REQUESTS, none_swallowed, signals, take_signals, unheard
from trainers.base.timeouts import WAITS

MOMENT = 0.05
NAMED = [number for number in REQUESTS if number <= signal.SIGRTMIN]  # one of the real-time signals stands for all


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a process begins with them, and requests that are told apart sooner; all is put back."""
    monkeypatch.setattr(WAITS, "same_request", MOMENT)
    monkeypatch.setattr(asking, "heard", -1e9)
    before = {number: signal.getsignal(number) for number in REQUESTS}
    for number in REQUESTS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)  # also what has come and waits
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


ENDED = """
import os, resource, signal
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for number in sorted(signal.valid_signals()):
    child = os.fork()
    if child == 0:
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(0)
    status = os.waitpid(child, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif os.WIFSIGNALED(status):
        print(int(number))
"""
ERRORS = {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE,
          signal.SIGSEGV, signal.SIGSYS}  # fmt: skip


def test_every_signal_that_ends_a_process_and_is_no_error_is_a_request() -> None:
    """As the kernel has it, including real-time signals, which have no names."""
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, check=True)
    assert set(map(int, done.stdout.split())) - {signal.SIGKILL} - ERRORS == set(REQUESTS)
    assert {signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO} <= set(REQUESTS)


@pytest.mark.parametrize("number", NAMED)
def test_what_comes_to_a_process_and_to_its_group_is_one_request(number: int) -> None:
    asked: list[str] = []
    with signals(lambda: asked.append("to stop")):
        send(number)
        send(signal.SIGTERM)
        send(number)
        time.sleep(2 * MOMENT)
        with pytest.raises(KeyboardInterrupt) if number in INSISTING else contextlib.nullcontext():
            send(number)
    assert asked == ["to stop"]


@pytest.mark.parametrize("number", NAMED)
def test_what_was_ignored_at_the_start_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    take_signals()
    with unheard(), none_swallowed(), signals(lambda: pytest.fail("was ignored")):
        send(number)
    assert signal.getsignal(number) == signal.SIG_IGN
    assert number in signal.pthread_sigmask(signal.SIG_BLOCK, ()), "whatever a library makes of it, it does not come"


TAKEN_AWAY = """
import os, signal
from cluster.host.signals import nothing_heard, take_signals
take_signals()
with nothing_heard():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("heard")
"""


def test_nothing_is_heard_where_a_library_takes_the_handlers_away() -> None:
    done = subprocess.run([sys.executable, "-c", TAKEN_AWAY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done


def test_what_our_caller_hears_himself_is_left_to_him() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    with signals(lambda: pytest.fail("is not ours")):
        send(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]


def test_a_child_never_hears_what_its_parent_hears_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), none_swallowed():  # noqa: PT012
        with unheard():
            child = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
                                     stdout=subprocess.PIPE)  # fmt: skip
            assert child.stdout is not None
            child.stdout.readline()
            for number in REQUESTS:
                child.send_signal(number)
            send(signal.SIGTERM)
            for _ in range(1000):
                time.sleep(0.01)
        pytest.fail("was not heard inside")
    assert child.poll() is None
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(REQUESTS) == set()


HANGS = """
import atexit, ctypes, os, signal, sys, time
from cluster.cli.main import end
from cluster.host.signals import REQUESTS, ignore_signals
from trainers.base.timeouts import WAITS
WAITS.clean_up = 0.3
sys.modules["ray"] = type(sys)("ray")
sys.modules["ray"].shutdown = print
ignore_signals()
atexit.register({hangs})
atexit.register(lambda: [os.kill(os.getpid(), number) for number in REQUESTS])
end(7)
"""


@pytest.mark.parametrize(
    ("hangs", "code"),
    [("time.sleep, 60", 7), *slow(("ctypes.PyDLL(None).sleep, 60", 1))],  # which lets no other thread run
)
def test_what_libraries_do_at_their_end_has_a_limit(hangs: str, code: int) -> None:
    """And no signal ends it sooner with another exit code."""
    done = subprocess.run([sys.executable, "-c", HANGS.format(hangs=hangs)], check=False, timeout=20,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
