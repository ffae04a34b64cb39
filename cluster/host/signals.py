"""Signals that request a stop: Ctrl-C, SIGTERM, and all others that would end this process and can be caught, such as
SIGHUP of a closed terminal, SIGALRM of a timer, and those that batch systems send before SIGKILL.

They can be sent to this process, to its group, or to all processes of a job, and more than once: those within
`WAITS.same_request` count as one request. A signal ignored at the start, as SIGHUP under nohup, stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainers.base.timeouts import WAITS

INSISTING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)  # a second one ends the command immediately
NO_REQUESTS = {
    "cannot be caught": "SIGKILL SIGSTOP",
    "does not end a process": "SIGTSTP SIGTTIN SIGTTOU SIGCONT SIGCHLD SIGURG SIGWINCH SIGINFO",
    "a fault, after which nothing can be saved": "SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGSEGV SIGSYS SIGEMT",
    "a failed write, which Python reports as an error": "SIGPIPE SIGXFSZ",
    "does not end a process, except on Linux": "" if sys.platform == "linux" else "SIGIO",
}


def _requests() -> tuple[int, ...]:
    """All other signals of this system, including real-time signals, which have no names."""
    others = {getattr(signal, name, 0) for names in NO_REQUESTS.values() for name in names.split()}
    return (*INSISTING, *sorted(signal.valid_signals() - {*INSISTING, *others}))


REQUESTS = _requests()
ALWAYS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # handlers of our caller for the others stay

heard = -1e9  # time of the latest request


def hold_signals() -> None:
    """Block all, also while this process is replaced by another program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)


def take_signals() -> None:
    """Raise KeyboardInterrupt for each, also before there is anything to save; a blocked one arrives now.

    Ignored signals are blocked too, in this thread and the threads that it starts: Ray's core replaces the handler of
    SIGTERM without Python's knowledge.
    """
    for number in _handlers():
        signal.signal(number, _interrupt)
    ignored = [number for number in REQUESTS if signal.getsignal(number) == signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(REQUESTS) - set(ignored))


def ignore_signals() -> None:
    """Ignore all signals: the command is done."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def _handlers() -> dict[int, Any]:
    """The current handlers of the signals that we handle: not of ignored ones, nor of those with a caller's handler."""
    before = {number: signal.getsignal(number) for number in REQUESTS}
    replaceable = (signal.SIG_DFL, _interrupt)
    return {
        number: signal.SIG_DFL if handler is None else handler
        for number, handler in before.items()
        if handler != signal.SIG_IGN and (number in ALWAYS or handler in replaceable)
    }


def _is_new() -> bool:
    """Whether a signal that just arrived is a new request."""
    global heard
    now = time.monotonic()
    new = now - heard > WAITS.same_request
    heard = now if new else heard
    return new


def _interrupt(number: int, frame: Any) -> None:
    if number not in INSISTING:
        signal.signal(number, signal.SIG_IGN)  # a terminal sends it twice, and the kernel SIGXCPU every second
    if _is_new():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(handle: Callable[[int, Any], None]) -> Iterator[Callable[[], None]]:
    """Use another handler inside; yields a function that installs it again. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = _handlers()

    def install() -> None:
        for number in before:
            signal.signal(number, handle)

    install()
    try:
        yield install
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore handlers that are replaced inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in REQUESTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def nothing_heard() -> Iterator[None]:
    """Discard signals that arrive inside, even if a library removes the handlers; restores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        with restored_handlers():
            yield
            if threading.current_thread() is threading.main_thread():
                ignore_signals()  # also pending ones
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def none_swallowed() -> Iterator[None]:
    """Inside, each raises KeyboardInterrupt immediately, and again at the end if a library swallowed it."""
    requested = False

    def handle(number: int, frame: Any) -> None:
        nonlocal requested
        if _is_new():
            requested = True
            raise KeyboardInterrupt

    with _handled(handle):
        yield
    if requested:
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer all to the end of the block, where they raise KeyboardInterrupt."""
    requests: list[bool] = []
    with signals(lambda: requests.append(True)):
        yield
    if requests:
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals(on_request: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Inside, the first request calls `on_request`; a second SIGINT, SIGTERM or SIGQUIT raises KeyboardInterrupt,
    others do nothing. Yields a function that installs the handlers again, in case a library has replaced them."""
    requested = False

    def handle(number: int, frame: Any) -> None:
        nonlocal requested
        if not _is_new():
            return
        if requested and number in INSISTING:
            raise KeyboardInterrupt
        if not requested:
            requested = True
            on_request()

    with _handled(handle) as install:
        yield install


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Processes started inside never receive these signals; this one does, in a waiting thread.

    A stop signal can be sent to all processes of a command, but workers and their Ray must live until they have saved.
    If no thread can be started, the signal is handled at the end of the block.
    """
    ignored = [number for number in REQUESTS if signal.getsignal(number) == signal.SIG_IGN]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ignored)  # a library may install handlers inside
    ended = threading.Event()
    hearing = threading.Thread(target=ended.wait, daemon=True)
    try:
        with contextlib.suppress(RuntimeError):
            hearing.start()
        signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        yield
    finally:
        ended.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
