"""Write what the documents say of verbs from their requests: the tables of options and the signatures of the calls.

`python docs/generate.py` rewrites the parts of docs/*.md between `<!-- options of VERB -->` or
`<!-- signature of CALL -->` and `<!-- end -->`; a test compares them.
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

PART = re.compile(r"(<!-- (options|signature) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
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


def generated(text: str) -> str:
    """A document with its generated parts written anew."""
    makers = {"options": table_of, "signature": signature_of}
    return PART.sub(lambda part: part[1] + makers[part[2]](part[3]) + part[4], text)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").glob("*.md")):
        path.write_text(generated(path.read_text()))
