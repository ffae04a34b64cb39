"""The command line, `VERB FAMILY key=value ... --option`, and its parser.

Standard parsers stop at the first error; this one finds all errors of a command. It imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trainers.base.errors import meant
from trainers.base.paths import DATA_DIR, expanded
from trainers.base.problems import Problem
from trainers.settings.fields import LARGEST, OTHER_NAMES

SETTING = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


class Option(NamedTuple):
    """`--name VALUE`, or a plain `--name` if `value` is empty."""

    name: str
    value: str
    help: str
    repeats: bool = False


class Verb(NamedTuple):
    """What a verb takes: names (FAMILY, NAME; with `...` any number), settings, options."""

    summary: str
    names: tuple[str, ...]
    settings: bool
    options: tuple[Option, ...]
    example: str


JSON = Option("json", "", "print one JSON object, errors included (docs/json.md); everything else goes to stderr")
DEBUG = Option("debug", "", "show tracebacks")
RUNS = Option("runs-dir", "DIR", "folder of the runs, or a bucket as s3://BUCKET/PATH (default: runs)")
DATA = Option("data-dir", "DIR", f"folder of data sets and packed image folders (default: {DATA_DIR})")
FAMILIES = Option(
    "families", "PATH", "a folder with custom families, and custom data sources in its folder data/", True
)
ADDRESS = Option("address", "ADDRESS", "join the Ray cluster at this address")
DASHBOARD = Option("address", "URL", "the dashboard of a Ray cluster, http://HEAD:8265")
DRY = Option("dry-run", "", "print every setting and the learning rate over the run, and exit")
CONFIG = Option("config", "FILE", "read settings from a YAML or JSON file, `key: value`; the command line overrides it")

ELSEWHERE = {  # verbs of other tools, and their equivalents here
    "ps": "runs", "ls": "runs", "list": "runs", "status": "runs", "queue": "jobs", "cancel": "stop",
    "kill": "stop", "rm": "runs --remove", "log": "logs", "tail": "logs --follow", "tune": "search", "fit": "train",
    "run": "train", "test": "evaluate", "generate": "sample", "doctor": "check", "preflight": "check", "info": "env",
}  # fmt: skip
SENT = ("train", "search")  # verbs that `submit` can send
HELP = Option("help", "", "show this help")

VERBS = {
    "train": Verb(
        "train a family, or resume a run", ("FAMILY?",), True,
        (
            Option("name", "NAME", "name of the new run (default: dcgan-1, dcgan-2, ...)"),
            Option("resume", "NAME", "resume this run, on any number of workers"),
            Option("from", "NAME|PATH", "start with the weights of another run, or of a file of weights"),
            Option("allow-changes", "", "resume even if settings or data changed"),
            ADDRESS,
            Option("oversubscribe", "", "let workers share cores"),
            CONFIG, DRY, RUNS, DATA, FAMILIES, JSON, DEBUG,
        ),
        "troupe train dcgan data=digits workers=2",
    ),
    "search": Verb(
        "search hyperparameters of a family, or resume a search", ("FAMILY?",), True,
        (
            Option("name", "NAME", "name of the new search (default: dcgan-search-1, ...)"),
            Option("resume", "NAME", "resume this search: its trials that have not ended"),
            Option("retry-failed", "", "with --resume: retry failed trials too"),
            Option("space", "FILE", "file of the search space, or none (default: searchspaces/FAMILY.py)"),
            Option("trials", "N", "number of points to try (default: that of the space, else 20)"),
            Option("metric", "NAME", "metric to compare trials by (default: the family's first)"),
            Option("mode", "max|min", "whether a higher or a lower metric is better (default: the family's)"),
            Option("scheduler", "NAME", "fifo; asha stops trials that fall behind; pbt and pb2 clone the best instead"),
            Option("algorithm", "NAME", "grid, random or optuna (default: grid, or random if it has too many points)"),
            Option("seed", "N", "seed of the search itself (default: 0)"),
            Option("max-concurrent", "N", "most trials at once"),
            Option("trials-per-gpu", "N", "trials of one worker that share a GPU (default: 1)"),
            Option("time-budget", "MINUTES", "save and stop after this time"),
            Option("disk-budget", "GB", "most disk space of the search; checkpoints of the worst trials are removed"),
            Option("keep-best", "N", "keep the checkpoints of the best N trials only"),
            Option("final", "", "retrain the best point on the whole training split, and report its test metric"),
            ADDRESS,
            CONFIG, DRY, RUNS, DATA, FAMILIES, JSON, DEBUG,
        ),
        "troupe search wgan_gp n_critic=1,2,5 learning_rate=1e-5..1e-3 --scheduler asha",
    ),
    "verify": Verb(
        "check that results do not depend on the number of workers", ("FAMILY",), True,
        (DRY, DATA, FAMILIES, JSON, DEBUG),
        "troupe verify dcgan workers=4",
    ),
    "evaluate": Verb(
        "evaluate a run, or weights of a file", ("NAME|FAMILY",), True,
        (
            Option("weights", "PATH", "evaluate these weights of a family, instead of a run"),
            Option("out", "DIR", "write pictures to this folder: confusion.png, mistakes.png"),
            RUNS, DATA, FAMILIES, JSON, DEBUG,
        ),
        "troupe evaluate --weights resnet20.th classifier model=resnet20 data=cifar10",
    ),
    "sample": Verb(
        "draw samples from a run's newest checkpoint", ("NAME",), True,
        (
            Option("count", "N", "number of samples (default: 64)"),
            Option("top", "N", "of a search: sample its N best trials, one below another"),
            Option("seed", "N", "seed of the noise (default: 0)"),
            Option("out", "FILE", "file to write (default: NAME-samples.png or .txt, if that is free)"),
            RUNS, DATA, FAMILIES, JSON, DEBUG,
        ),
        "troupe sample dcgan-1 --count 100",
    ),
    "export": Verb(
        "write weights (safetensors) and a config that rebuilds the networks", ("NAME",), False,
        (
            Option("out", "DIR", "folder to write (default: NAME-export)"),
            Option("best", "", "of a search: export its best trial"),
            RUNS, FAMILIES, JSON, DEBUG,
        ),
        "troupe export dcgan-1 --out dcgan-digits",
    ),
    "predict": Verb(
        "classify images", ("NAME", "FILE|FOLDER", "FILE|FOLDER..."), False,
        (
            Option("top", "N", "classes to print for each image, most probable first (default: 2; in JSON all)"),
            Option("best", "", "of a search: use its best trial"),
            RUNS, FAMILIES, JSON, DEBUG,
        ),
        "troupe predict classifier-1 pictures/cat.jpg holidays",
    ),
    "report": Verb(
        "write an offline page about searches or runs", ("NAME", "NAME..."), False,
        (
            Option("out", "DIR", "folder to write (default: in the search or run; report for several)"),
            Option("single-file", "", "write a single file, pictures included"),
            Option("watch", "", "update the page while the run or search is running, until Ctrl-C"),
            RUNS, JSON, DEBUG,
        ),
        "troupe report dcgan-search-1",
    ),
    "runs": Verb(
        "list runs with their sizes, or remove some", ("NAME...",), False,
        (
            Option("remove", "", "remove the named runs"),
            Option("dry-run", "", "with --remove: only print what would be removed"), RUNS, JSON, DEBUG,
        ),
        "troupe runs --remove dcgan-1",
    ),
    "submit": Verb(
        "run train or search as a job on a Ray cluster", ("train|search", "FAMILY?"), True,
        (
            DASHBOARD,
            Option("install", "", "let the cluster install missing packages, in the versions of this machine"),
            Option("follow", "", "print the output of the job until it ends, and exit with its exit code"),
            Option("unchecked", "", "skip the preflight check of the cluster"),
            JSON, DEBUG,
        ),
        "troupe submit train dcgan data=digits workers=4 --runs-dir /shared/runs --address http://HEAD:8265",
    ),
    "jobs": Verb(
        "list the jobs on a Ray cluster", (), False, (DASHBOARD, JSON, DEBUG), "troupe jobs --address http://HEAD:8265"
    ),
    "check": Verb(
        "preflight check of this machine or a Ray cluster", ("FAMILY?",), True,
        (
            Option("address", "ADDRESS", "check the Ray cluster at this address, HEAD:6379 or http://HEAD:8265"),
            RUNS, DATA, FAMILIES, JSON, DEBUG,
        ),
        "troupe check dcgan data=mnist workers=4 --address HEAD:6379 --runs-dir /shared/runs",
    ),
    "stop": Verb(
        "stop a run, search or job after saving a checkpoint", ("NAME",), False, (DASHBOARD, RUNS, JSON, DEBUG),
        "troupe stop dcgan-1",
    ),
    "logs": Verb(
        "print the logs of a run or job", ("NAME",), False,
        (
            Option("rank", "N", "of this worker only"),
            Option("follow", "", "follow the log until the run ends; of worker 0, if no other is given"),
            DASHBOARD, RUNS, JSON, DEBUG,
        ),
        "troupe logs dcgan-1 --follow",
    ),
    "families": Verb("list the model families", (), False, (FAMILIES, JSON, DEBUG), "troupe families"),
    "datasets": Verb(
        "list the data sets and packed image folders", (), False,
        (Option("remove", "PATH", "remove the packed copy of this folder"), DATA, FAMILIES, JSON, DEBUG),
        "troupe datasets",
    ),
    "env": Verb("print versions and hardware for a bug report", (), False, (JSON, DEBUG), "troupe env"),
}  # fmt: skip


@dataclass
class Words:
    """A parsed command. `problems` holds all its errors."""

    verb: str = ""
    names: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)  # text from the command line; any value from Python
    options: dict[str, str] = field(default_factory=dict)  # plain options hold ""
    repeated: dict[str, list[str]] = field(default_factory=dict)
    inner: Words | None = None  # of `submit`: the command to run on the cluster
    help: bool = False
    problems: list[Problem] = field(default_factory=list)

    def has(self, option: str) -> bool:
        return option in self.options

    def path(self, option: str, default: str) -> Path:
        return expanded(self.options.get(option) or default)

    def number(self, option: str, default: int, least: int, most: int = LARGEST) -> int:
        """An integer option; adds a problem if it is not an integer, or out of bounds."""
        text = self.options.get(option, str(default))
        whole = text.isascii() and text.isdecimal()
        too_large = whole and (len(text.lstrip("0")) > len(str(most)) or int(text) > most)
        if whole and not too_large and int(text) >= least:
            return int(text)
        bound = f"at most {most}" if too_large else f"at least {least}"
        self.problems.append(Problem("bad-value", f"--{option}", f"must be a whole number, {bound}", value=text))
        return default

    def amount(self, option: str, unit: float) -> float | None:
        """A number above 0, in units of `unit`; adds a problem if it is invalid."""
        text = self.options.get(option)
        if text is None:
            return None
        try:
            number = float(text if text.isascii() and "_" not in text else "")
        except ValueError:
            number = 0.0
        if 0 < number <= LARGEST:
            return number * unit
        most = f", at most {LARGEST}" if number > LARGEST else ""
        self.problems.append(Problem("bad-value", f"--{option}", f"must be a number above 0{most}", value=text))
        return None

    def again(self, *left_out: str) -> tuple[str, ...]:
        """The arguments after the verb, for the same command again, without these options."""
        known = {option.name: option for option in VERBS[self.verb].options}
        typed = [*self.names, *(f"{key}={value}" for key, value in self.settings.items())]
        for name, value in self.options.items():
            if name not in left_out:
                for one in self.repeated.get(name, [value]):
                    typed += [f"--{name}", one] if known[name].value else [f"--{name}"]
        return tuple(typed)

    @property
    def families(self) -> tuple[Path, ...]:
        return tuple(expanded(path).resolve() for path in self.repeated.get("families", ()))


def parse(arguments: Sequence[str], whole: bool = False) -> Words:
    """Parse a command; never raises. `whole`: parse `submit` by itself, without its inner command."""
    rest = list(arguments)
    if rest[:1] == ["submit"] and not whole and any(word in SENT for word in rest):
        return _parse_submit(rest[1:])
    if rest[:1] in (["-h"], ["--help"], ["help"]) or not {*rest} - {"--json", "--debug"}:
        return Words(help=True)
    words = Words(rest.pop(0))
    if words.verb in VERBS:
        _Parser(words, rest).parse()
    else:
        words.problems.append(_unknown_verb(words.verb))
    return words


def _unknown_verb(verb: str) -> Problem:
    here = ELSEWHERE.get(verb)
    hint = f"use `troupe {here}`" if here else meant(verb, VERBS)
    hint = "the verb comes first" if verb.startswith("-") else hint
    return Problem("unknown-verb", verb, "no such verb", "; ".join(filter(None, [hint, "`troupe --help` lists them"])))


class _Parser:
    """Moves the arguments of a known verb from `rest` to `words`, one by one, and collects all problems."""

    def __init__(self, words: Words, rest: list[str]) -> None:
        self.words, self.rest, self.verb = words, rest, VERBS[words.verb]
        self.options = {option.name: option for option in self.verb.options}
        self.empty = 0  # empty arguments, probably meant as names

    def parse(self) -> None:
        while self.rest:
            self._read_argument(self.rest.pop(0))
        self._check_names()

    def _note(self, code: str, about: str, reason: str, hint: str = "", value: str | None = None) -> None:
        self.words.problems.append(Problem(code, about, reason, hint, value))

    def _read_argument(self, argument: str) -> None:
        if argument in ("-h", "--help"):
            self.words.help = True
        elif argument.startswith("--"):
            self._read_option(*argument[2:].partition("="))
        elif argument.startswith("-") and len(argument) > 1:
            hint = meant(f"-{argument}", [f"--{known}" for known in self.options])
            self._note("unknown-option", argument, "options start with two dashes", hint)
        elif (match := SETTING.fullmatch(argument)) and self.words.verb != "predict":  # a file name can look like this
            self._read_setting(*match.groups())
        elif not argument.strip():
            self.empty += 1
            self._note("missing", self.words.verb, "an argument is empty, perhaps from an unset variable")
        else:
            self.words.names.append(argument)

    def _read_option(self, name: str, equals: str, value: str) -> None:
        option = self.options.get(name)
        if option is None:
            self._note_unknown_option(name, value if equals else self._take_likely_value())
        elif option.value:
            self._set_option(option, value if equals else self._take_value())
        else:
            if equals:
                self._note("bad-value", f"--{name}", "takes no value")
            self.words.options[name] = value

    def _take_value(self) -> str | None:
        return self.rest.pop(0) if self.rest and not self.rest[0].startswith("--") else None

    def _take_likely_value(self) -> str:
        """The argument after an unknown option, unless it looks like an option, a setting, or the missing name."""
        following = self.rest[0] if self.rest else "-"
        if following.startswith("-") or "=" in following or (following[:1].isalpha() and not self.words.names):
            return ""
        return self.rest.pop(0)

    def _set_option(self, option: Option, value: str | None) -> None:
        name = option.name
        if value is None:
            self._note("missing", f"--{name}", f"needs a value, --{name} {option.value}")
        elif not value.strip():
            self._note("missing", f"--{name}", "is empty", f"it needs a value, --{name} {option.value}")
        else:
            if option.repeats:
                self.words.repeated.setdefault(name, []).append(value)
            elif name in self.words.options:
                self._note("said-twice", f"--{name}", "given twice")
            self.words.options[name] = value

    def _note_unknown_option(self, name: str, value: str) -> None:
        hint = meant(f"--{name}", [f"--{known}" for known in self.options])
        if self.verb.settings:
            key = name.replace("-", "_")
            setting = f"{OTHER_NAMES.get(key, key)}={value or '...'}"
            near = hint if key not in OTHER_NAMES else ""
            hint = f"{near[:-1]}, or {setting}?" if near else f"settings have no dashes: {setting}"
        self._note("unknown-option", f"--{name}", f"no such option of {self.words.verb}", hint)

    def _read_setting(self, key: str, value: str) -> None:
        settings = self.words.settings
        if not self.verb.settings:
            self._note("unknown-setting", key, f"{self.words.verb} takes no settings", value=value)
        elif key in settings:
            self._note("said-twice", key, f"given twice, as {settings[key]} and {value}")
        else:
            settings[key] = value

    def _check_names(self) -> None:
        """Report wrong, extra and missing names."""
        names, takes = self.words.names, self.verb.names
        if self.words.verb == "submit" and names and names[0] not in SENT:
            reason = f"submit runs {' or '.join(SENT)}, as in `{self.verb.example}`"
            self._note("unknown-verb", names[0], reason)
        if not any(name.endswith("...") for name in takes):
            for extra in names[len(takes) :]:
                self._note("too-many", extra, "one name too many", _as_setting(extra))
        least = sum(1 for name in takes if name[-1] not in "?.")
        if len(names) + self.empty < least and not self.words.help:
            reason = f"needs a {takes[len(names)].lower()}, as in `{self.verb.example}`"
            self._note("missing", self.words.verb, reason)


def _as_setting(word: str) -> str:
    """A hint for an argument that is almost a setting."""
    key, equals, value = word.partition("=")
    if not equals:
        return ""
    if not key:
        return "a setting is key=value, without spaces"
    return f"a setting is written {key.replace('-', '_')}={value or '...'}"


def _parse_submit(arguments: Sequence[str]) -> Words:
    """`submit` with its own options, and the inner command with the others."""
    own = {option.name: option for option in VERBS["submit"].options}
    rest, inside, outside = list(arguments), list[str](), list[str]()
    while rest:
        word = rest.pop(0)
        name, equals, _ = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        if name not in own:
            inside.append(word)
            continue
        outside.append(word)
        if own[name].value and not equals and rest:
            outside.append(rest.pop(0))
    verb = next((word for word in inside if word in SENT), None)
    if verb is None:  # it was the value of an option
        return parse(["submit", *arguments], whole=True)
    inside.remove(verb)
    words = parse(["submit", verb, *outside], whole=True)
    words.inner = parse([verb, *inside])
    words.help = words.help or words.inner.help
    words.problems += words.inner.problems
    return words
