"""Refuses folders that may be splits, classes, or left by a system: with the setting that decides, instead of a guess.

Nothing here is asked if the setting `folders` says what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainers.base.errors import ENVIRONMENT, TroupeError
from trainers.base.paths import printable
from trainers.base.problems import Problem
from trainers.data.image_folders.folder_names import (
    TRAIN,
    UNLABELED,
    alike_but_for_parts,
    inputs_and_target,
    is_opposed,
    part_kinds,
    perhaps_of_system,
    placed,
)

MOST_SPLITS = 3  # folders with the same folders in each: more of them are hardly splits


def splits_of(kinds: Mapping[str, str]) -> dict[str, str]:
    """The folders that are training, test or validation splits."""
    return {name: kind for name, kind in kinds.items() if kind not in ("", UNLABELED)}


def is_complete(splits: Mapping[str, str]) -> bool:
    """Whether there is one training split, one or two splits to evaluate on, and no other."""
    kinds = list(splits.values())
    return TRAIN in kinds and len(kinds) > 1 and len(kinds) == len(set(kinds))


def refuse_ambiguous(paths: Sequence[str], kinds: Mapping[str, str], data: str) -> None:
    """Raise TroupeError if the first-level folders of a data set may be either; `kinds` are the splits by their names,
    "" for others, and "" is the name of images beside all folders."""
    named = [name for name in kinds if name]
    complete = is_complete(splits_of(kinds))
    leave_out = "use folders=parts to leave it out, or folders=classes if all are classes"
    leave_out = leave_out if complete else "use folders=classes if it is a class, or move it away"
    _refuse_of_system(list(kinds), leave_out, data)
    _refuse_targets(named, "folders=classes", data)
    inside = {name: _folders_in(name, paths) for name in named}
    if split := _split_beside_others(kinds, inside):
        _refuse_beside(split, kinds, inside, complete, data)
    if len(named) > 1 and "" in kinds.values():
        _refuse_short(named, data)
    if len(named) > 1 and not any(kinds.values()):
        _refuse_unknown(paths, named, inside, data)


def refuse_ambiguous_classes(split: str, classes: Sequence[str], data: str) -> None:
    """Raise TroupeError if the folders of a split may be something else than classes."""
    say = "use folders=parts if it is a class, or move it away"
    _refuse_of_system(classes, say, data, f"{split}/")
    _refuse_targets(classes, "folders=parts", data, f"{split}/")
    kinds = part_kinds(classes)
    others = [name for name, kind in kinds.items() if not kind]
    if name := _split_beside_others(kinds, {name: set() for name in classes}):
        reason = f"its folder {printable(f'{split}/{name}')} may be a split, or a class like {names_of(others)}"
        raise either(reason, say, data)


def _folders_in(name: str, paths: Sequence[str]) -> set[str]:
    """The folders with images in a first-level folder."""
    beginning = f"{name}/"
    return {path.split("/", 2)[1] for path in paths if path.startswith(beginning) and path.count("/") > 1}


def _refuse_of_system(names: Sequence[str], hint: str, data: str, within: str = "") -> None:
    """Raise TroupeError for a folder that a system may have made."""
    for name in perhaps_of_system(names):
        raise either(f"its folder {printable(within + name)} may be a class, or left by a system", hint, data)


def _refuse_targets(names: Sequence[str], setting: str, data: str, within: str = "") -> None:
    """Raise TroupeError for a folder with masks or the like, beside one with images."""
    if found := inputs_and_target(names):
        images, target = (printable(within + name) for name in found)
        reason = f"its folder {target} may belong to the images of its folder {images}, or be a class"
        raise either(reason, f"move it away, or use {setting} if all are classes", data)


def _split_beside_others(kinds: Mapping[str, str], inside: Mapping[str, set[str]]) -> str:
    """The first folder with the name of a split, if there are others, and it is not a class for sure: a train may be
    a vehicle, and `valid` beside `invalid` is no split."""
    others = [name for name, kind in kinds.items() if not kind]
    splits = [name for name, kind in kinds.items() if kind and not is_opposed(name, others)]
    is_vehicle = [name.casefold() for name in splits] == [TRAIN] and len(inside[splits[0]]) < 2
    return splits[0] if splits and others and not is_vehicle else ""


def _refuse_beside(
    split: str, kinds: Mapping[str, str], inside: Mapping[str, set[str]], complete: bool, data: str
) -> None:
    """Raise TroupeError: a folder may be a split, or a class like others."""
    others = [name for name, kind in kinds.items() if not kind]
    classes, say = {name for name in others if name}, "use folders=classes if all are classes"
    if complete:
        hint = f"use folders=parts to leave the others out, or {say}"
    elif TRAIN not in kinds.values() and ("" in others or classes & inside[split]):
        hint = f"move {names_of(others, '')} into a folder train, or {say}"
    elif TRAIN not in kinds.values() and len(classes) == 1:
        hint = f"rename {printable(others[0])} to train if it is the training split, or {say}"
    else:
        hint = f"move away what is not a class, or {say}"
    reason = f"its folder {printable(split)} may be a split, or a class like {names_of(others)}"
    raise either(reason, hint, data)


def _refuse_short(names: Sequence[str], data: str) -> None:
    """Raise TroupeError if all names are splits in two letters, as `tr` and `te`."""
    kinds = placed(part_kinds(names, short=True))
    if all(kinds.values()) and is_complete(splits_of(kinds)):
        hint = "use folders=parts if they are splits, or folders=classes if they are classes"
        raise either(f"{names_of(names)} may be splits, or classes", hint, data)


def _refuse_unknown(paths: Sequence[str], names: Sequence[str], inside: Mapping[str, set[str]], data: str) -> None:
    """Raise TroupeError for folders that no name shows to be splits: those with splits in each, with names like those
    of splits, or with the same folders in each."""
    if all(_has_splits(folders) for folders in inside.values()):
        hint = "put the splits above the classes (train/CLASS, test/CLASS), or use folders=classes to merge them"
        raise either(f"each of {names_of(names)} has its own splits", hint, data)
    hint = "rename them to train and test if they are splits, or use folders=classes if all are classes"
    if alike := alike_but_for_parts(names):
        raise either(f"{names_of(alike)} may be splits, or classes", hint, data)
    first, *rest = inside.values()
    same = len(first) > 1 and all(other == first for other in rest) and any(map(str.isalpha, "".join(first)))
    if same and len(names) <= MOST_SPLITS and all(path.count("/") > 1 for path in paths):
        reason = (
            f"each of {names_of(names)} has the folders {enumerated(sorted(first))}, and may be a split, or a class"
        )
        raise either(reason, hint, data)


def _has_splits(names: set[str]) -> bool:
    kinds = placed(part_kinds(sorted(names)))
    return "" not in kinds.values() and is_complete(splits_of(kinds))


def either(reason: str, hint: str, data: str) -> TroupeError:
    return TroupeError(Problem("parts-or-classes", "data", reason, hint, data), ENVIRONMENT)


def names_of(names: Mapping[str, str] | Sequence[str], its: str = "its folder") -> str:
    """`its folders a, b and c`; "" is the name of images beside all folders."""
    filled = [name for name in names if name]
    beside = ["the images beside it"] if "" in names else []
    head = f"{its}{'s' * (len(filled) > 1)} " if filled and its else ""
    return f"{head}{enumerated(filled[:8] + ['...'] * (len(filled) > 8) + beside)}"


def enumerated(names: Sequence[str]) -> str:
    """`a, b and c`."""
    texts = [printable(name) for name in names]
    return " and ".join(filter(None, [", ".join(texts[:-1]), *texts[-1:]]))
