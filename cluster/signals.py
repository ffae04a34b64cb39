"""Ctrl-C, SIGTERM and SIGHUP (a terminal that closes), while there is something to save and before.

A SIGHUP that was ignored when the command started, as under nohup, stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hold_signals() -> None:
    """Let all wait, also while this process is replaced by another program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


def take_signals() -> None:
    """Let each be a KeyboardInterrupt, also before there is anything to save; one that has waited comes now."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _hang_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)


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
def none_swallowed() -> Iterator[None]:
    """Inside, SIGINT is a KeyboardInterrupt at once, and once more at the end where somebody has swallowed that."""
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
    """Inside, the first SIGINT, SIGTERM or SIGHUP calls `ask`; a second SIGINT or SIGTERM ends the process as usual.

    A second SIGHUP does nothing: a terminal that closes sends it twice, by its shell and by the kernel. Yields what
    installs the handlers again, where somebody may have replaced them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in ASKED}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    asked = False

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        install()
        ask()

    def install() -> None:
        put_back()
        for number in before if not asked else ():
            signal.signal(number, handle)
        if asked and signal.SIGHUP in before:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    install()
    try:
        yield install
    finally:
        put_back()


def _hang_up(number: int, frame: Any) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it may come twice
    raise KeyboardInterrupt


@contextlib.contextmanager
def without_hangups() -> Iterator[None]:
    """Processes that are started inside never hear SIGHUP; one that comes meanwhile comes to this process afterwards.

    A terminal that closes sends it to all of its processes: workers and their Ray must live until they have saved.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
