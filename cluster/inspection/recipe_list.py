"""`troupe recipes`: all recipes as a table, or one in full."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.requests.models import RecipesRequest
from cluster.terminal.tables import table
from trainers.families.recipes import Recipe, all_recipes, as_row, find_recipe


def listed(request: RecipesRequest) -> list[Recipe]:
    """All recipes, or the one that is named. Raises TroupeError (exit code 2) if there is none of that name."""
    return all_recipes(request.families) if request.name is None else [find_recipe(request.name, request.families)]


def text_of_recipes(request: RecipesRequest, found: Sequence[Recipe]) -> str:
    """A table of recipes, or the file of the one that is named, which explains each of its numbers."""
    if request.name is None:
        rows = [as_row(recipe) for recipe in found]
        return f"{table(rows)}\n\n`troupe recipes NAME` explains one, `troupe train --recipe NAME` runs it"
    (recipe,) = found
    facts = "\n".join(f"{name}: {text}" for name, text in as_row(recipe).items())
    return f"{facts}\n\n{recipe.file.read_text(encoding='utf-8').rstrip()}\n\n{recipe.command}"
