"""The settings that a command gives: on its command line, in the file of `--config`, and by its recipe."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.requests.models import SearchRequest, TrainRequest
from trainers.base import old_names
from trainers.base.errors import USAGE, TroupeError
from trainers.base.paths import expanded
from trainers.base.problems import Problem, attributed
from trainers.families.recipes import Recipe, find_recipe
from trainers.settings.config import Config
from trainers.settings.fields import plain, show_size

LARGEST_CONFIG = 200_000  # bytes of a settings file; one with all settings has some 3,000
COMMAND_LINE, CONFIG_FILE, RECIPE = "command line", "config file", "recipe "  # origins; the last with its name
LENGTHS = {"steps": "epochs", "epochs": "steps"}  # of a run: each takes the place of the other


@dataclass(frozen=True)
class GivenSettings:
    """The command line overrides the file of `--config`, which overrides the recipe."""

    typed: Mapping[str, Any]
    in_file: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    recipe: Recipe | None = None

    @property
    def values(self) -> dict[str, Any]:
        """All of them, by name."""
        own = self.recipe.words if self.recipe is not None else {}
        merged = {**_beneath(own, self.overriding), **_beneath(self.in_file, self.typed)}
        return {**merged, **self.typed}

    @property
    def overriding(self) -> dict[str, Any]:
        """Those that are not the recipe's."""
        return {**_beneath(self.in_file, self.typed), **self.typed}

    @property
    def origins(self) -> dict[str, str]:
        """Where the value of each was given."""
        found = dict.fromkeys(self.values, f"{RECIPE}{self.recipe.name}" if self.recipe is not None else "")
        found |= dict.fromkeys(self.overriding, CONFIG_FILE)
        return {**found, **dict.fromkeys(self.typed, COMMAND_LINE)}

    def sourced(self, problem: Problem) -> Problem:
        """A problem of a setting, with the file or the recipe that gives it."""
        origin = self.origins.get(problem.about, COMMAND_LINE)
        if origin == COMMAND_LINE or problem.source:
            return problem
        return replace(problem, source=self.file if origin == CONFIG_FILE else origin)

    def with_current_names(self, kind: type[Config]) -> tuple[GivenSettings, list[str]]:
        """The same with the current names of the settings in the file, and a line about each former one."""
        named, notes = old_names.of_file(self.in_file, kind.model_fields, f"--config {self.file}")
        return replace(self, in_file=named), notes

    def record(self, config: Config, others: Collection[str] = ()) -> dict[str, Any] | None:
        """What is stored of the recipe with a run: its name, and those of the given settings and of `others` whose
        values are not the recipe's. None without a recipe."""
        if self.recipe is None:
            return None
        fields = type(config).model_fields
        names = [name if name in fields else f"{name}_" for name in (*self.overriding, *others)]
        changed = _not_of(self.recipe, type(config), {name: getattr(config, name) for name in names})
        return {"name": self.recipe.name, "changed": changed}


def _beneath(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the length of a run if others give it in the other way."""
    overridden = {LENGTHS[name] for name in upper if name in LENGTHS and LENGTHS[name] not in upper}
    return {name: value for name, value in lower.items() if name not in overridden}


def _not_of(recipe: Recipe, kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of these settings whose values are not the recipe's own, as JSON stores them."""
    alone, _ = kind.from_words(recipe.words, recipe.family)
    own = plain(alone.model_dump()) if alone is not None else {}
    return {name: value for name, value in plain(values).items() if name not in own or own[name] != value}


def name_of_recipe(record: Mapping[str, Any] | None, families: Sequence[Path]) -> str | None:
    """The name in a stored record of a recipe; None without one, or if there is no valid recipe of this name now."""
    recipe = _recorded(record, families) if record is not None else None
    return recipe.name if recipe is not None else None


def _recorded(record: Mapping[str, Any], families: Sequence[Path]) -> Recipe | None:
    try:
        return find_recipe(str(record["name"]), families)
    except TroupeError:
        return None


def with_changes(
    record: Mapping[str, Any], values: Mapping[str, Any], kind: type[Config], families: Sequence[Path]
) -> dict[str, Any]:
    """The record of a recipe after these settings have changed: without those that have the recipe's own values again,
    but with all of them if the recipe is no longer known."""
    changed = {**_beneath(record.get("changed", {}), values), **plain(values)}
    recipe = _recorded(record, families)
    return {**record, "changed": changed if recipe is None else _not_of(recipe, kind, changed)}


def updated(
    record: Mapping[str, Any],
    given: GivenSettings,
    stored: Mapping[str, Any],
    config: Config,
    families: Sequence[Path],
) -> dict[str, Any]:
    """The record of a resumed run's recipe, with the settings that change now."""
    now = plain({name: getattr(config, name) for name in given.values if name in type(config).model_fields})
    changes = {name: value for name, value in now.items() if stored.get(name) != value}
    return with_changes(record, changes, type(config), families)


@contextlib.contextmanager
def naming_recipe(origins: Mapping[str, str]) -> Iterator[None]:
    """Adds the recipe to problems of settings that it gives."""
    try:
        yield
    except TroupeError as error:
        found = {name: origin for name, origin in origins.items() if origin.startswith(RECIPE)}
        error.problems = [
            replace(one, source=found[one.about]) if one.about in found and not one.source else one
            for one in error.problems
        ]
        raise


def read_given(
    command: TrainRequest | SearchRequest, problems: list[Problem], notes: list[str]
) -> tuple[str | None, GivenSettings]:
    """The family and the settings of a command. Raises TroupeError (exit code 2) if they are for two families."""
    recipe = _read_recipe(command, problems)
    in_file = read_config(command.config, problems, notes)
    of_file = in_file.pop("family", None)
    given = GivenSettings(command.settings, in_file, str(command.config), recipe)
    named = [
        ("you passed", command.family, "", None),
        ("--config is for", of_file, "--config", command.config),
        ("--recipe is for", recipe.family if recipe is not None else None, "--recipe", command.recipe),
    ]
    known = [(how, str(family), option, value) for how, family, option, value in named if family is not None]
    for _, family, option, value in known[1:]:
        first, expected = known[0][:2]
        if family != expected:
            reason = f"is for {family}, {first} {expected}"
            problems.append(Problem("settings-conflict", option, reason, "omit one of them", str(value)))
            raise TroupeError(problems, USAGE)
    if recipe is not None:
        notes.append(_introduction(given, recipe))
    return known[0][1] if known else None, given


def _read_recipe(command: TrainRequest | SearchRequest, problems: list[Problem]) -> Recipe | None:
    """The recipe of a command; None if it names none, or resumes a run, which stays as it is."""
    if command.recipe is None or command.resume is not None:
        return None
    try:
        return find_recipe(command.recipe, command.families)
    except TroupeError as error:
        problems += attributed(error.problems, "--recipe") if _is_unknown(error) else error.problems
        return None


def _is_unknown(error: TroupeError) -> bool:
    return [one.code for one in error.problems] == ["unknown-recipe"]


def _introduction(given: GivenSettings, recipe: Recipe) -> str:
    """A recipe and what a command changes in it, in one line."""
    changed = ", ".join(name for name, value in given.overriding.items() if recipe.words.get(name) != str(value))
    with_them = f"; the command also sets {changed}" if changed else ""
    return f"recipe {recipe.name}: {recipe.title}; published: {recipe.published}{with_them}"


def with_recipe(command: TrainRequest | SearchRequest) -> tuple[str | None, dict[str, Any]]:
    """The family and the settings of a command and of its recipe, without those of its file."""
    recipe = _read_recipe(command.with_local_paths(), [])
    family = recipe.family if recipe is not None else command.family
    return family, GivenSettings(command.settings, recipe=recipe).values


def read_config(path: Path | None, problems: list[Problem], notes: list[str]) -> dict[str, Any]:
    """Settings from a YAML or JSON file, which can be the settings.json of a run."""
    if path is None:
        return {}

    def wrong(reason: str, code: str = "bad-value") -> None:
        problems.append(Problem(code, "--config", reason, value=str(path)))

    read = _parse(path, wrong)
    if isinstance(read.get("settings"), dict) and "family" in read:
        note = f"--config {path}: from a run of {read['family']}; only its settings are used"
        unused = ", ".join(sorted(read.keys() - {"family", "settings", "format", "digest", "since"}))
        notes.append(f"{note} (not {unused})" if unused else note)
        read = {"family": read["family"], **read["settings"]}
        if read.get("epochs", "null") != "null":
            read.pop("steps", None)  # they followed from its data
    texts: dict[str, str] = {}
    for key, value in read.items():
        if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(part, str) for part in value)):
            wrong(f"{key}: requires one value or a list of values")
        else:
            word = ":".join(value) if isinstance(value, list) else value
            texts[key] = "none" if word in ("", "~", "null") else word
    return texts


def _parse(path: Path, wrong: Callable[..., None]) -> dict[str, Any]:
    """The contents of a settings file, as texts; empty if it is not one, with the reason passed to `wrong`."""
    import yaml

    try:
        if os.stat(expanded(path)).st_size > LARGEST_CONFIG:
            wrong(f"is larger than {show_size(LARGEST_CONFIG)}: not a settings file")
            return {}
        text = expanded(path).read_text(encoding="utf-8")
        read: dict[str, Any] = yaml.load(text, yaml.BaseLoader)  # texts, read as those on the command line
        node = yaml.compose(text, yaml.BaseLoader)
    except OSError as error:
        wrong(str(error.strerror), "not-read")
    except RecursionError:
        wrong("is nested too deeply; it requires lines `setting: value`")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        wrong(f"neither YAML nor JSON ({' '.join(str(error).split())[:200]})")
    else:
        if not isinstance(node, yaml.MappingNode):
            wrong("requires lines of the form `setting: value`")
            return {}
        for key, count in Counter(key.value for key, _ in node.value).items():
            if count > 1:
                wrong(f"{key}: given twice", "said-twice")
        return read
    return {}
