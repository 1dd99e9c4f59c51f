"""The users of docs/security.md: what each role may do, and URLs with which the product runs as one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

PASSWORD: Final = "pass-of-a-role"
PREFIX: Final = "role-"  # tests make users called `worker` of their own
_LINES: Final = re.compile(r"^ACL SETUSER (\w+) (reset on >PASSWORD .*)$", re.MULTILINE)
_BESIDES: Final = re.compile(
    r"^\* (?:Behind Sentinel|On a Cluster|With `--http`|With `app\.stream\(\.\.\.\)`) add `(.*?)`", re.MULTILINE
)
_DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "security.md"


def documented() -> dict[str, list[str]]:
    """The words of each role's line, with a password."""
    found = _LINES.findall(_DOCUMENT.read_text())
    return {role: [word.replace("PASSWORD", PASSWORD) for word in words.split()] for role, words in found}


def commands(role: str) -> set[str]:
    """What the role may call: ``xadd``, ``xinfo|stream``."""
    return {word[1:] for word in documented()[role] if word.startswith("+")}


def commands_of_places() -> set[str]:
    """What they may call besides, by place: behind Sentinel, on a Cluster, with --http, with app.stream."""
    return {word[1:] for words in _BESIDES.findall(_DOCUMENT.read_text()) for word in words.split()}


def rules_for_tests(role: str) -> list[str]:
    """The documented commands, on streams of any name: each test has its own."""
    allowed = commands(role) | commands_of_places()
    return ["on", f">{PASSWORD}", "resetchannels", "~*", "-@all", *(f"+{one}" for one in sorted(allowed))]


def as_role(url: str, role: str = "worker") -> str:
    """``url`` with the user of ``role``; one that names a user, or is none of a server on TCP, stays what it is."""
    parts = urlsplit(url)
    if parts.scheme == "unix" or "@" in parts.netloc:
        return url
    return parts._replace(netloc=f"{PREFIX}{role}:{PASSWORD}@{parts.netloc}").geturl()
