"""Ctrl-C and SIGTERM, while there is something to save."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ASKED = (signal.SIGINT, signal.SIGTERM)


def hold_signals() -> None:
    """Let both wait, also while this process is replaced by another program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)


def take_signals() -> None:
    """Let each be a KeyboardInterrupt, also before there is anything to save; one that has waited comes now."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put both handlers back that somebody replaces inside."""
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
def deferred() -> Iterator[None]:
    """Let both wait for the end of the block, where they are a KeyboardInterrupt."""
    asked: list[bool] = []
    with signals(lambda: asked.append(True)):
        yield
    if asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def signals(ask: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Inside, the first SIGINT or SIGTERM calls `ask`; a second one ends the process as usual.

    Yields what installs the handlers again, where somebody may have replaced them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in ASKED}
    asked = False

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        put_back()
        ask()

    def install() -> None:
        put_back()
        for number in before if not asked else ():
            signal.signal(number, handle)

    install()
    try:
        yield install
    finally:
        put_back()
