"""Signals that ask for an end: Ctrl-C, SIGTERM, a terminal that closes, and what batch systems send before they kill.

They may be sent to this process, to its group, or to all processes of a job, and more than once: what comes twice
within a moment is one request. One that was ignored when the command started, as SIGHUP under nohup, stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainers.base.timeouts import WAITS

INSISTING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)  # a second one ends at once
ASKED = (*INSISTING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
ALWAYS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # of the others our caller may make what he likes

heard = -1e9  # when the newest request was heard


def hold_signals() -> None:
    """Let all wait, also while this process is replaced by another program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


def take_signals() -> None:
    """Let each be a KeyboardInterrupt, also before there is anything to save; one that has waited comes now.

    What is ignored is blocked too, in this thread and all that it starts: Ray's core takes away, behind Python, what
    SIGTERM does.
    """
    for number in _handlers():
        signal.signal(number, _interrupt)
    ignored = [number for number in ASKED if signal.getsignal(number) == signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(ASKED) - set(ignored))


def ignore_signals() -> None:
    """All is done and said."""
    for number in ASKED:
        signal.signal(number, signal.SIG_IGN)


def _handlers() -> dict[signal.Signals, Any]:
    """The handlers of those that are ours to hear: not of what is ignored, nor of what our caller hears himself."""
    before = {number: signal.getsignal(number) for number in ASKED}
    mine = (signal.SIG_DFL, _interrupt)
    return {
        number: signal.SIG_DFL if handler is None else handler
        for number, handler in before.items()
        if handler != signal.SIG_IGN and (number in ALWAYS or handler in mine)
    }


def _is_new() -> bool:
    """Whether a signal that has just come is a request of its own."""
    global heard
    now = time.monotonic()
    new = now - heard > WAITS.same_request
    heard = now if new else heard
    return new


def _interrupt(number: int, frame: Any) -> None:
    if number not in INSISTING:
        signal.signal(number, signal.SIG_IGN)  # a terminal says so twice, and the kernel of a used-up limit each second
    if _is_new():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(handle: Callable[[int, Any], None]) -> Iterator[Callable[[], None]]:
    """Another handler for all that are ours to hear; yields what installs it again. Only the main thread can."""
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
def handlers_kept() -> Iterator[None]:
    """Put the handlers back that somebody replaces inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ASKED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def nothing_heard() -> Iterator[None]:
    """Whatever comes inside is nothing, also where somebody takes the handlers away; they are put back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
    try:
        with handlers_kept():
            yield
            if threading.current_thread() is threading.main_thread():
                ignore_signals()  # also what has come and waits
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def none_swallowed() -> Iterator[None]:
    """Inside, each is a KeyboardInterrupt at once, and once more at the end where somebody has swallowed that."""
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if _is_new():
            asked = True
            raise KeyboardInterrupt

    with _handled(handle):
        yield
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let all wait for the end of the block, where they are a KeyboardInterrupt."""
    asked: list[bool] = []
    with signals(lambda: asked.append(True)):
        yield
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals(ask: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Inside, the first request calls `ask`; a second SIGINT, SIGTERM or SIGQUIT is a KeyboardInterrupt, any other is
    nothing more. Yields what installs the handlers again, where somebody may have replaced them."""
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if not _is_new():
            return
        if asked and number in INSISTING:
            raise KeyboardInterrupt
        if not asked:
            asked = True
            ask()

    with _handled(handle) as install:
        yield install


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started inside never hear any of these signals; this one does, in a thread that waits.

    What asks a command to end may be sent to all of its processes, and workers and their Ray must live until they have
    saved. Where no thread can be started it is heard at the end of the block.
    """
    ignored = [number for number in ASKED if signal.getsignal(number) == signal.SIG_IGN]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ignored)  # somebody may handle them inside
    ended = threading.Event()
    hearing = threading.Thread(target=ended.wait, daemon=True)
    try:
        with contextlib.suppress(RuntimeError):
            hearing.start()
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
        yield
    finally:
        ended.set()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
