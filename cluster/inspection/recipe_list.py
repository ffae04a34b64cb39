"""`troupe recipes`: all recipes, a few lines each, or one in full."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.requests.models import RecipesRequest
from trainers.families.recipes import Recipe, all_recipes, find_recipe


def requested_recipes(request: RecipesRequest) -> list[Recipe]:
    """All recipes, or the one that is named. Raises TroupeError (exit code 2) if there is none of that name."""
    return all_recipes(request.families) if request.name is None else [find_recipe(request.name, request.families)]


def text_of_recipes(request: RecipesRequest, found: Sequence[Recipe]) -> str:
    """Some lines about each recipe; with the file of the one that is named, which explains each of its numbers."""
    texts = ["\n".join(_lines_of(recipe)) for recipe in found]
    if request.name is None:
        return "\n\n".join([*texts, "`troupe recipes NAME` explains one, `troupe train --recipe NAME` runs it"])
    (recipe,) = found
    return "\n\n".join([*texts, recipe.file.read_text(encoding="utf-8").rstrip(), recipe.command])


def _lines_of(recipe: Recipe) -> list[str]:
    """Name, family, source, results and times."""
    return [
        f"{recipe.name}: {recipe.title}",
        f"  family     {recipe.family}",
        f"  source     {recipe.source}",
        f"  published  {recipe.published}",
        f"  ours       {recipe.our_result}",
        f"  takes      {recipe.time.two_cores} on two cores, {recipe.time.one_gpu} on one GPU",
    ]
