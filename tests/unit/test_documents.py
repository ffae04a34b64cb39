"""The documents know every word that can be typed, and what is shipped beside the code fits it."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from cluster.cli.parser import options_of
from cluster.requests.models import REQUESTS
from trainers.base.old_names import FIELDS, METRICS, SETTINGS
from trainers.families import registry

ROOT = Path(__file__).parents[2]
FAMILIES = sorted(registry.families())
MODULES = [  # without those of one family
    path for part in ("cluster", "trainers") for path in (ROOT / part).rglob("*.py")
    if not path.name.startswith("__") and not (path.parent / "config.py").exists()
]  # fmt: skip


@cache
def documents() -> str:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(path.read_text() for path in paths if path.exists())


def named(word: str) -> bool:
    """Whether a verb or an option is there as it is typed."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", documents()) is not None


@pytest.mark.parametrize("verb", REQUESTS)
def test_every_verb_and_every_option_is_in_the_documents(verb: str) -> None:
    missing = [] if named(f"troupe {verb}") else [f"troupe {verb}"]
    missing += [f"--{option.name}" for option in options_of(verb) if not named(f"--{option.name}")]
    assert missing == []


def test_the_architecture_names_every_module_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    listed = text[text.index("## The packages") : text.index("A package stands above")]
    every = {path.name for part in ("cluster", "trainers") for path in (ROOT / part).rglob("*.py")}
    named = set(re.findall(r"[a-z_]+\.py", listed))
    assert {path.name for path in MODULES} - named == set()
    assert named - every == set()
    packages = {path.parent.name for path in MODULES} - {"trainers"}
    assert packages <= {name.strip() for name in re.findall(r"^ {6}[a-z_]+(?=  )|\b[a-z_]+(?=/)", listed, re.MULTILINE)}


def names_in(text: str) -> list[str]:
    """The names of functions, classes and modules in a document: in backticks, and in drawings of calls."""
    words = re.findall(r"`([A-Za-z_][A-Za-z_.]*?)(?:\(.*?\))?`", text)
    drawn = [line for line in text.splitlines() if line.startswith("    ") and "->" in line]
    return words + [name for line in drawn for name in re.findall(r"[A-Za-z_]+(?:\.[A-Za-z_]+)+", line)]


def test_names_in_drawings_of_calls_are_found() -> None:
    text = "`Plan.of(folder)` and `samplers`, not `a=b`\n\n    main.command -> (else) Worker.train -> Ray Tune\n"
    assert names_in(text) == ["Plan.of", "samplers", "main.command", "Worker.train"]


def defined(path: Path) -> set[str]:
    """What a module defines, by its dotted name: functions, classes, their methods, fields and attributes."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = {module}
    for node in ast.parse(path.read_text()).body:
        found |= {f"{module}.{name}" for name in names_of(node)}
        for inside in ast.walk(node) if isinstance(node, ast.ClassDef) else ():
            found |= {f"{module}.{node.name}.{name}" for name in names_of(inside)}
    return found


def names_of(node: ast.AST) -> set[str]:
    """The names that one statement binds, here or on `self`."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    parts = [part for target in targets for part in ast.walk(target)]
    return {part.id for part in parts if isinstance(part, ast.Name)} | {
        part.attr for part in parts if isinstance(part, ast.Attribute)
    }


def test_the_architecture_names_nothing_that_is_not_there() -> None:
    paths = [path for part in ("cluster", "trainers", "troupe") for path in (ROOT / part).rglob("*.py")]
    whole = {name for path in paths for name in defined(path)}
    ends = {name.split(".", start)[-1] for name in whole for start in range(name.count(".") + 1)}
    source = "\n".join(path.read_text() for path in paths)
    words = set(re.findall(r"\w+", source))
    names = names_in((ROOT / "docs" / "architecture.md").read_text())
    dotted = [name for name in names if "." in name and not re.search(r"\.(py|json)$", name)]
    assert [name for name in dotted if name not in ends and name.split(".")[0] not in sys.stdlib_module_names] == []
    assert [name for name in names if "." not in name and name not in words] == []
    assert len(dotted) > 40


def codes() -> set[str]:
    """The codes of all problems that are made, as far as they are written down where these are made."""
    trees = [ast.parse(path.read_text()) for part in ("cluster", "trainers") for path in (ROOT / part).rglob("*.py")]
    made = [call.args[0] for tree in trees for call in ast.walk(tree) if isinstance(call, ast.Call) and call.args
            and getattr(call.func, "id", getattr(call.func, "attr", "")) == "Problem"]  # fmt: skip
    return {code.value for code in made if isinstance(code, ast.Constant)}


def test_the_documents_list_the_codes_of_all_errors_and_no_other() -> None:
    text = (ROOT / "docs" / "json.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \|", text[text.index("| code |") : text.index("## train")], re.MULTILINE)
    assert rows == sorted(rows)
    assert codes() - set(rows) == set()
    sources = "\n".join(path.read_text() for part in ("cluster", "trainers") for path in (ROOT / part).rglob("*.py"))
    assert [code for code in rows if f'"{code}"' not in sources] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_every_setting_of_it_is_in_the_documents(family: str) -> None:
    assert named(family)
    names = [row.name for row in registry.config_class(family).described()]
    assert [name for name in names if f"`{name}`" not in documents() and f"`{name}=" not in documents()] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_search_space_of_words_that_its_settings_take(family: str) -> None:
    space = importlib.import_module(f"searchspaces.{family}").SEARCH
    kind = registry.config_class(family)
    assert space
    for name, words in space.items():
        assert kind.model_fields[name], name
        parts = words.removeprefix("linear:").split("..") if ".." in words else words.split(",")
        assert len(parts) == 2 if ".." in words else len(parts) > 1, f"{name}: nothing to choose from"
        for part in parts:
            assert kind.from_words({name: part}, family)[1] == []
        if ".." in words:
            low, high = map(float, parts)
            assert low < high, name


def test_no_search_space_is_of_a_family_that_is_not_there() -> None:
    found = {path.stem for path in (ROOT / "searchspaces").glob("*.py")} - {"__init__"}
    assert found == set(FAMILIES)


@pytest.mark.parametrize("name", ["ray_config.yaml", "ray_config.one_machine.yaml"])
def test_the_cluster_files_are_such_that_ray_takes_them(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config  # no public name for it

    config = yaml.safe_load((ROOT / name).read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="additional"):
        validate_config(prepare_config({**config, "no_such_word": 1}))


def test_the_cluster_of_several_nodes_wants_a_token_on_all_and_pins_its_ray() -> None:
    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "~/.ray/auth_token" in config["file_mounts"]
    (install,) = [line for line in config["setup_commands"] if "pip install" in line]
    pinned = re.search(r"'ray\[default,tune\]==(2\.\d+)\.\d+'", install)
    assert pinned is not None
    assert f'"ray[default,tune]>={pinned[1]}"' in (ROOT / "pyproject.toml").read_text()


FORMER = (  # replaced by the field's terms: again, resume, started, error, reported, local Ray, custom family
    r"anew", r"begun", r"go(es)? on", r"whoever", r"somebody", r"mistakes? of", r"so many", r"by heart", r"bug of ours",
    r"Rays? of (our|its) own", r"of one's own", r"words (are|were) wrong", r"held-out part", r"running settings?",
    r"told",
)  # fmt: skip


def former(text: str) -> list[str]:
    """The words of a text that are no longer used."""
    words = re.compile(rf"(?<![\w-])({'|'.join(FORMER)})(?![\w-])", re.IGNORECASE)
    return [match[0] for match in words.finditer(text)]


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))],
                         ids=lambda path: path.name)  # fmt: skip
def test_documents_use_the_terms_of_the_field(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL)  # names in code stay what they are
    assert former(text) == []


def renamed(text: str) -> list[str]:
    """The old names of settings and metrics in a text: those that are also words count only as typed, or as code."""
    words = "latent", "judged", "keep", "exchange"
    names = [re.escape(name) for name in {**SETTINGS, **METRICS} if name not in words]
    typed = [rf"(?<![\w.-]){name}=|`{name}`(?! checkpoints)" for name in words]
    return [match[0] for match in re.finditer(rf"(?<![a-z])(?:eval_)?(?:{'|'.join(names)})\b|{'|'.join(typed)}", text)]


def test_old_names_of_settings_and_metrics_are_found() -> None:
    text = "`keep`, keep=3, warm_up, eval_copy_rate, normalisation; not critic_ranking_accuracy, exchange or keep"
    assert renamed(text) == ["`keep`", "keep=", "warm_up", "eval_copy_rate", "normalisation"]


def test_no_document_help_or_docstring_has_an_old_name() -> None:
    texts = {path.name: path.read_text() for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
             *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]}  # fmt: skip
    texts |= {
        verb: " ".join([told.summary, *(one.help for one in options_of(verb))]) for verb, told in REQUESTS.items()
    }
    for family in FAMILIES:
        rows = [*registry.config_class(family).described()]
        assert not {row.name for row in rows} & SETTINGS.keys()
        assert not {*registry.config_class(family).metrics} & METRICS.keys()
        texts[family] = " ".join(row.help for row in rows)
    for path in [
        *(ROOT / "cluster").rglob("*.py"),
        *(ROOT / "trainers").rglob("*.py"),
        *ROOT.glob("searchspaces/*.py"),
    ]:
        if path.name != "old_names.py":
            texts[str(path)] = path.read_text().replace("`keep`", "")  # a parameter of functions
    assert {name: renamed(text) for name, text in texts.items() if renamed(text)} == {}


def test_the_schema_has_no_old_field() -> None:
    def fields(part: object) -> Iterator[str]:
        if isinstance(part, dict):
            yield from part.get("properties", ())
            for inside in part.values():
                yield from fields(inside)

    assert not {*fields(json.loads((ROOT / "docs" / "json_schema.json").read_text()))} & FIELDS.keys()


@pytest.mark.parametrize("verb", REQUESTS)
def test_help_uses_the_terms_of_the_field(verb: str) -> None:
    text = " ".join([REQUESTS[verb].summary, *(option.help for option in options_of(verb))])
    if verb == "train":
        text += " ".join(row.help for family in FAMILIES for row in registry.config_class(family).described())
    assert former(text) == []


def test_tables_of_options_and_signatures_in_the_documents_are_those_of_the_requests() -> None:
    """`python docs/generate.py` writes them."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        generate = importlib.import_module("generate")
    finally:
        sys.path.pop(0)
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert generate.generated(path.read_text()) == path.read_text(), path
