"""Write what the documents say of verbs from their requests, and of recipes from their files.

`python docs/generate.py` rewrites the parts of docs/*.md between `<!-- options of VERB -->`,
`<!-- signature of CALL -->` or `<!-- recipes of FAMILY -->` and `<!-- end -->`; a test compares them.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cluster  # noqa: E402
from cluster.cli.parser import HELP, options_of  # noqa: E402
from cluster.requests.request import Option  # noqa: E402
from trainers.families.recipes import Recipe, all_recipes  # noqa: E402

PART = re.compile(r"(<!-- (options|signature|recipes) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH = 108
SHARED = ("runs-dir", "data-dir", "families", "json", "debug")  # in one table for all verbs


def table_of(verb: str) -> str:
    """The options of one verb, or those of several (`verbs`), as a Markdown table."""
    every = [*options_of("train"), HELP] if verb == "verbs" else options_of(verb)
    chosen = [one for one in every if (one.name in (*SHARED, "help")) == (verb == "verbs")]
    return "| option | |\n|---|---|\n" + "".join(f"| `{_typed(one)}` | {one.help} |\n" for one in chosen)


def _typed(option: Option) -> str:
    return f"--{option.name} {option.value}".strip().replace("|", "\\|")


def signature_of(call: str) -> str:
    """The signature of a call as a code block, wrapped between arguments."""
    signature = inspect.signature(getattr(cluster, call))
    text = str(signature)
    for one in (*signature.parameters.values(), inspect.Parameter("r", inspect.Parameter.KEYWORD_ONLY)):
        text = text.replace(f"'{one.annotation}'", str(one.annotation))
    inside, _, returned = text[1:].replace("'", '"').rpartition(") -> ")
    returned = returned.strip('"')
    if len(whole := f"{call}({inside}) -> {returned}") > WIDTH:
        arguments = inside.replace(", ", ",\n").replace(" ", "\0").split("\n")  # not broken inside
        lines = textwrap.wrap(" ".join(arguments), WIDTH, break_long_words=False, break_on_hyphens=False)
        whole = "\n".join([f"{call}(", *(f"    {line}" for line in lines)]).replace("\0", " ") + f",\n) -> {returned}"
    return f"```\n{whole}\n```\n"


def table_of_recipes(family: str) -> str:
    """The recipes of one family as a Markdown table."""
    rows = [_row_of(recipe) for recipe in all_recipes() if recipe.family == family]
    heads = ("recipe and source", "published", "ours", "what explains the difference", "two cores; one GPU")
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _row_of(recipe: Recipe) -> tuple[str, ...]:
    results = [f"{one} ({one.processor}{f'; with `{one.changes}`' if one.changes else ''})" for one in recipe.ours]
    results += [recipe.why_not] if recipe.not_run else []
    times = f"{recipe.time.two_cores}; {recipe.time.one_gpu}"
    name = f"`{recipe.name}`: {recipe.title}. {recipe.source}"
    return name, str(recipe.published), "; ".join(results), recipe.differs.strip(), times


def generated(text: str) -> str:
    """A document with its generated parts written anew."""
    makers = {"options": table_of, "signature": signature_of, "recipes": table_of_recipes}
    return PART.sub(lambda part: part[1] + makers[part[2]](part[3]) + part[4], text)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").glob("*.md")):
        path.write_text(generated(path.read_text()))
