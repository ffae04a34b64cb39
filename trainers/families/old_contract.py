"""Old names of the contract in the source of a custom family, found before it is imported: all are reported at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from trainers.base import old_names
from trainers.base.problems import Problem

KINDS = {  # the last part of a module: of which class those of a family that extend one from there are
    **dict.fromkeys(("config", "settings", "fields"), "Config"),
    **dict.fromkeys(("family", "training", "learning", "judging"), "Family"),
}


def renamed_in(folder: Path) -> list[Problem]:
    """A problem for each old name and file that the family in this folder defines, reads, passes or imports."""
    problems: list[Problem] = []
    for file in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # its import reports it
        finder = Finder(f"trainers.families.{folder.name}")
        finder.visit(tree)
        for (owner, name), line in finder.lines.items():
            problems += old_names.renamed(owner, [name], f"{file}, line {line}")
    return problems


class Finder(ast.NodeVisitor):
    """Collects names that members of the contract's classes had before, with the line of the first use of each."""

    def __init__(self, package: str) -> None:
        self.package = package  # of the family
        self.lines: dict[tuple[str, str], int] = {}
        self.imports: dict[str, str] = {}  # local names of what comes from troupe
        self.classes: dict[str, str] = {}  # of this file: Config or Family, "?" for others
        self.enclosing_kind = "?"  # the kind of the class around
        self.owners = {"microbatch": "MicroBatch", "config": "Config", "self.config": "Config"}  # of attributes

    def note(self, owner: str, name: str, node: ast.expr | ast.stmt | ast.keyword | ast.alias) -> None:
        if name in old_names.CONTRACT_NAMES.get(owner, {}):
            self.lines.setdefault((owner, name), node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").partition(".")[0] == "trainers":
            for alias in node.names:
                self.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                self.note("?" if f"{node.module}.".startswith(f"{self.package}.") else "", alias.name, alias)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        kinds = [kind for kind in map(self.kind_of, node.bases) if kind != "?"]
        self.classes[node.name] = (kinds or ["?"])[0]
        around, self.enclosing_kind = self.enclosing_kind, self.classes[node.name]
        for statement in node.body:
            for name in defined(statement):
                self.note(self.enclosing_kind, name, statement)
        self.generic_visit(node)
        self.enclosing_kind = around

    def kind_of(self, base: ast.expr) -> str:
        """Config or Family for a class of the contract, or one that extends it; "?" for others."""
        text = ast.unparse(base)
        if text in self.classes:
            return self.classes[text]
        name, _, rest = text.partition(".")
        path = ".".join(filter(None, [self.imports.get(name, ""), rest]))
        return KINDS.get(".".join(path.split(".")[:-1]).rpartition(".")[2], "?") if name in self.imports else "?"

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation is not None and (kind := ast.unparse(node.annotation)) in ("MicroBatch", "Evaluation"):
            self.owners[node.arg] = kind

    def visit_Attribute(self, node: ast.Attribute) -> None:
        receiver = ast.unparse(node.value)
        self.note(
            self.enclosing_kind if receiver in ("self", "cls", "super()") else self.owners.get(receiver, "?"),
            node.attr,
            node,
        )
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        callee = ast.unparse(node.func).rpartition(".")[2]
        for keyword in node.keywords if callee in ("Phase", "Watch") else ():
            self.note(callee, keyword.arg or "", keyword)
        self.generic_visit(node)


def defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement in the body of a class defines."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    yield from (target.id for target in targets if isinstance(target, ast.Name))
