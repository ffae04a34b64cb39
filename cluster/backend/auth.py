"""Tokens of Ray's token authentication: our token, a new one for a local Ray, and making Ray read them again."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def token() -> str:
    """The token that Ray would send, or an empty text."""
    if variable := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return variable
    with contextlib.suppress(OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home folder
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        return path.read_text(encoding="utf-8").strip()
    return ""


def write_new(path: str) -> None:
    """Write a new token to a file that only this user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def reload_token_settings() -> None:
    """Make Ray read its token settings from the current environment: it caches what it read first."""
    from ray import _raylet

    with contextlib.suppress(AttributeError):  # not public; other versions of Ray may differ
        _raylet.Config.initialize("")  # type: ignore[attr-defined]
        _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]
