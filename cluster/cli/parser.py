"""The command line, `VERB FAMILY key=value ... --option`, and its parser.

Standard parsers stop at the first error; this one finds all errors of a command. It imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.requests.models import REQUESTS, SENT, SubmitRequest
from cluster.requests.request import Option, VerbRequest
from trainers.base.errors import did_you_mean
from trainers.base.old_names import OPTIONS
from trainers.base.old_names import SETTINGS as RENAMED
from trainers.base.paths import expanded
from trainers.base.problems import Problem
from trainers.settings.fields import OTHER_NAMES

SETTING = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
EQUIVALENTS = {  # verbs of other tools, and their equivalents here
    "ps": "runs", "ls": "runs", "list": "runs", "status": "runs", "queue": "jobs", "cancel": "stop",
    "kill": "stop", "rm": "runs --remove", "log": "logs", "tail": "logs --follow", "tune": "search", "fit": "train",
    "run": "train", "test": "evaluate", "generate": "sample", "doctor": "check", "preflight": "check", "info": "env",
}  # fmt: skip
JSON = Option("json", "", "print one JSON object, errors included (docs/json.md); everything else goes to stderr")
DEBUG = Option("debug", "", "show tracebacks")
HELP = Option("help", "", "show this help")


def options_of(verb: str) -> list[Option]:
    """All options of a verb, without `--help`."""
    return [*REQUESTS[verb].options().values(), JSON, DEBUG]


@dataclass
class Command:
    """A parsed command line. `problems` holds all its errors."""

    verb: str = ""
    names: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)  # the values of each; none for a flag
    help: bool = False
    problems: list[Problem] = field(default_factory=list)
    request: VerbRequest | None = None  # with all that is valid; None if something required is missing

    def has(self, option: str) -> bool:
        return option in self.options

    @property
    def families(self) -> list[Path]:
        return [expanded(path).resolve() for path in self.options.get("families", ())]


def parse(arguments: Sequence[str], outer_only: bool = False) -> Command:
    """Parse a command; never raises. `outer_only`: parse `submit` by itself, without its inner command."""
    remaining = list(arguments)
    if remaining[:1] == ["submit"] and not outer_only and any(word in SENT for word in remaining):
        return _parse_submit(remaining[1:])
    if remaining[:1] in (["-h"], ["--help"], ["help"]) or not {*remaining} - {"--json", "--debug"}:
        return Command(help=True)
    command = Command(remaining.pop(0))
    if command.verb in REQUESTS:
        _Parser(command, remaining).parse()
    else:
        command.problems.append(_unknown_verb(command.verb))
    return command


def _unknown_verb(verb: str) -> Problem:
    equivalent = EQUIVALENTS.get(verb)
    hint = f"use `troupe {equivalent}`" if equivalent else did_you_mean(verb, REQUESTS)
    hint = "the verb comes first" if verb.startswith("-") else hint
    return Problem("unknown-verb", verb, "no such verb", "; ".join(filter(None, [hint, "`troupe --help` lists them"])))


class _Parser:
    """Moves the arguments of a known verb from `remaining` to `command`, one by one, and collects all problems."""

    def __init__(self, command: Command, remaining: list[str]) -> None:
        self.command, self.remaining, self.model = command, remaining, REQUESTS[command.verb]
        self.options = {option.name: option for option in options_of(command.verb)}
        self.empty = 0  # empty arguments, probably meant as names

    def parse(self) -> None:
        while self.remaining:
            self._read_argument(self.remaining.pop(0))
        self._check_names()
        command = self.command
        if not command.help:
            command.request, wrong = self.model.from_command(command.names, command.settings, command.options)
            command.problems += wrong
            command.problems += command.request.conflicts() if command.request is not None else []

    def _note(self, code: str, about: str, reason: str, hint: str = "", value: str | None = None) -> None:
        self.command.problems.append(Problem(code, about, reason, hint, value))

    def _read_argument(self, argument: str) -> None:
        if argument in ("-h", "--help"):
            self.command.help = True
        elif argument.startswith("--"):
            self._read_option(*argument[2:].partition("="))
        elif argument.startswith("-") and len(argument) > 1:
            hint = did_you_mean(f"-{argument}", [f"--{option}" for option in self.options])
            self._note("unknown-option", argument, "options start with two dashes", hint)
        elif self.command.verb != "predict" and (match := SETTING.fullmatch(argument)):  # a file can have such a name
            self._read_setting(*match.groups())
        elif not argument.strip():
            self.empty += 1
            self._note("missing", self.command.verb, "an argument is empty, perhaps from an unset variable")
        else:
            self.command.names.append(argument)

    def _read_option(self, name: str, equals: str, value: str) -> None:
        option = self.options.get(name)
        if option is None:
            self._note_unknown_option(name, value if equals else self._take_likely_value())
        elif option.value:
            self._set_option(option, value if equals else self._take_value())
        else:
            if equals:
                self._note("bad-value", f"--{name}", "takes no value")
            self.command.options[name] = []

    def _take_value(self) -> str | None:
        return self.remaining.pop(0) if self.remaining and not self.remaining[0].startswith("--") else None

    def _take_likely_value(self) -> str:
        """The argument after an unknown option, unless it looks like an option, a setting, or the missing name."""
        following = self.remaining[0] if self.remaining else "-"
        if following.startswith("-") or "=" in following or (following[:1].isalpha() and not self.command.names):
            return ""
        return self.remaining.pop(0)

    def _set_option(self, option: Option, value: str | None) -> None:
        name = option.name
        if value is None:
            self._note("missing", f"--{name}", f"needs a value, --{name} {option.value}")
        elif not value.strip():
            self._note("missing", f"--{name}", "is empty", f"it needs a value, --{name} {option.value}")
        else:
            if name in self.command.options and not option.repeats:
                self._note("said-twice", f"--{name}", "given twice")
            self.command.options.setdefault(name, []).append(value)

    def _note_unknown_option(self, name: str, value: str) -> None:
        if (new := OPTIONS.get(name)) in self.options:
            self._note("renamed", f"--{name}", "was renamed", f"use --{new}")
            return
        hint = did_you_mean(f"--{name}", [f"--{option}" for option in self.options])
        if self.model.takes_settings():
            key = name.replace("-", "_")
            renamed = {**OTHER_NAMES, **RENAMED}
            setting = f"{renamed.get(key, key)}={value or '...'}"
            near = hint if key not in renamed else ""
            hint = f"{near[:-1]}, or {setting}?" if near else f"settings have no dashes: {setting}"
        self._note("unknown-option", f"--{name}", f"no such option of {self.command.verb}", hint)

    def _read_setting(self, key: str, value: str) -> None:
        settings = self.command.settings
        if not self.model.takes_settings():
            self._note("unknown-setting", key, f"{self.command.verb} takes no settings", value=value)
        elif key in settings:
            self._note("said-twice", key, f"given twice, as {settings[key]} and {value}")
        else:
            settings[key] = value

    def _check_names(self) -> None:
        """Report wrong, extra and missing names."""
        names, takes = self.command.names, list(self.model.positions().values())
        if self.command.verb == "submit" and names and names[0] not in SENT:
            reason = f"submit runs {' or '.join(SENT)}, as in `{self.model.example}`"
            self._note("unknown-verb", names[0], reason)
        if not any("..." in name for name in takes):
            for extra in names[len(takes) :]:
                self._note("too-many", extra, "one name too many", _as_setting(extra))
        least = [name.partition(" ")[0] for name in takes if not name.startswith("[")]
        if len(names) + self.empty < len(least) and not self.command.help:
            reason = f"needs a {least[len(names)].lower()}, as in `{self.model.example}`"
            self._note("missing", self.command.verb, reason)


def _as_setting(word: str) -> str:
    """A hint for an argument that is almost a setting."""
    key, equals, value = word.partition("=")
    if not equals:
        return ""
    if not key:
        return "a setting is key=value, without spaces"
    return f"a setting is written {key.replace('-', '_')}={value or '...'}"


def _parse_submit(arguments: Sequence[str]) -> Command:
    """`submit` with its own options, and the inner command with the others."""
    own = {option.name: option for option in options_of("submit")}
    remaining, inside, outside = list(arguments), list[str](), list[str]()
    while remaining:
        word = remaining.pop(0)
        name, equals, _ = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        if name not in own:
            inside.append(word)
            continue
        outside.append(word)
        if own[name].value and not equals and remaining:
            outside.append(remaining.pop(0))
    verb = next((word for word in inside if word in SENT), None)
    if verb is None:  # it was the value of an option
        return parse(["submit", *arguments], outer_only=True)
    inside.remove(verb)
    command = parse(["submit", verb, *outside], outer_only=True)
    inner = parse([verb, *inside])
    if command.help or inner.help:
        return Command(inner.verb, inner.names, inner.settings, inner.options, help=True)
    command.problems += inner.problems
    if isinstance(command.request, SubmitRequest):
        command.request = command.request.replaced(inner=inner.request)
    return command
