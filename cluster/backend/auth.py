"""Tokens of Ray's token authentication: which one is ours, one for a Ray of our own, and letting Ray look anew."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def token() -> str:
    """The token that Ray would send, where there is one."""
    if mine := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return mine
    with contextlib.suppress(OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        return path.read_text(encoding="utf-8").strip()
    return ""


def write_new(path: str) -> None:
    """Write a new token where only this user can read it."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def read_anew() -> None:
    """Let Ray look at the environment of now for whether there is a token, and which: it keeps what it saw first."""
    from ray import _raylet

    with contextlib.suppress(AttributeError):  # no public name does it; another Ray may have others
        _raylet.Config.initialize("")  # type: ignore[attr-defined]
        _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]
