"""Breaks promises on purpose, to see that the tests which `docs/promises.md` names still notice.

    python tests/mutations.py [--seed N] [--tree PATH] [--sound] [NAME ...]

A dozen rows of the table, drawn by seed 30 when it was shorter: five that need Ray, seven others. For each of them one
small wrong change is made in a copy of the tree, and a few tests of that row run there, in the lowest tier that holds
the promise; one must fail. `--seed N` draws a dozen of today's rows; those without a change yet are told.
NAME: only rows whose text contains it. `--sound`: the same tests without the change, which must pass.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "unit")]

from test_promises import Promise, promises  # noqa: E402

from trainers.runtime import processor  # noqa: E402

OF_RAY, OTHERS = 5, 7  # of the rows that are drawn
LONGEST = 1800  # seconds for the tests of one promise
NO_PROOF = r"(ImportError|ModuleNotFoundError|SyntaxError|IndentationError|NameError)\b|Failed: Timeout"


class Mutation(NamedTuple):
    """A wrong change of one file, and the tests that notice it; their names are the same in every tree."""

    promise: str  # the beginning of its row
    file: str
    edits: tuple[tuple[str, str], ...]  # old text and new text: today's first, then those of older trees
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(  # a process that has carried out a trial before gives the next one another seed
        "A trial of a search is bit-identical to a run", "cluster/searching/trainable.py",
        (("            return run(plan, World(), self.control)",
          "            plan.settings['seed'] += self.warm\n            return run(plan, World(), self.control)"),),
        ("tests/on_ray/test_search.py::test_trials_are_equal_to_runs_to_the_bit_in_any_order_and_in_reused_actors",),
    ),
    Mutation(  # whoever once held a run goes on writing to it
        "Of two groups of workers that hold a run only the newer one can write", "trainers/run_folders/run_locks.py",
        (('if (self.path / LOCK).read_text(encoding="utf-8") != self.token:', "if not self.token:"),),
        ("tests/unit/test_holding.py::test_who_has_lost_a_run_cannot_write_to_it_any_more",),
    ),
    Mutation(  # its own newest checkpoint stays, and the clone goes on from that
        "A clone continues from the better trial's weights", "cluster/searching/trainable.py",
        (("        for old in own_checkpoints:\n", "        for old in own_checkpoints[:-1]:\n"),),
        ("tests/unit/test_trial.py::test_a_clone_has_the_donors_checkpoint_its_own_settings_and_says_from_whom",),
    ),
    Mutation(  # the place in the stream of samples is forgotten
        "A run killed anywhere", "trainers/engine/state.py",
        (('state["phases_done"], state["position"]', 'state["phases_done"], 0'),),
        ("tests/faults/test_kills.py::test_killed_in_the_middle_of_a_checkpoint_write",),
    ),
    Mutation(  # trials that have ended are carried out once more
        "A search resumes after `kill -9`", "cluster/searching/samplers.py",
        (("iter([trial for trial in search.trials if trial.state in OPEN])", "iter([*search.trials])"),),
        ("tests/on_ray/test_search.py::test_a_search_goes_on_after_its_driver_was_killed_and_its_folder_moved",),
    ),
    Mutation(  # a wide character counts as one column
        "All output of a command fits a terminal", "cluster/terminal/tables.py",
        (("return cell_len(text)", "return len(text)"),),
        ("tests/unit/test_columns.py::test_a_wide_character_takes_two_columns",),
    ),
    Mutation(  # a run goes on from its oldest checkpoint: the same bits, but more steps made again
        "After any fault at a random moment", "trainers/storage/checkpoint.py",
        (("    for path in reversed(all_in(folder)):\n", "    for path in all_in(folder):\n"),),
        ("tests/faults/test_random_faults.py::test_a_run_that_is_hurt_ends_as_if_nothing_had_happened[driver]",),
    ),
    Mutation(  # the first mistake hides the others
        "All errors in a command's arguments are reported at once", "cluster/training/prepare_run.py",
        (("    if findings.problems:\n        raise TroupeError(findings.problems, USAGE)\n    if findings.conflict",
          "    if findings.problems:\n        raise TroupeError(findings.problems[:1], USAGE)\n"
          "    if findings.conflict"),),
        ("tests/unit/test_cli_errors.py::test_every_mistake_of_a_command_is_told_at_once",),
    ),
    Mutation(  # hosts send one another rounded sums
        "The exact sums do not depend on the placement of workers on hosts", "trainers/distributed/exchange.py",
        (("partial = fold(parts, torch.add, *node)",
          "partial = fold(parts, torch.add, *node).bfloat16().to(result.dtype)"),),
        ("tests/distributed/test_grad_sync.py::test_sums_have_the_same_bits_on_any_placement",),
    ),
    Mutation(  # what another machine has written does not replace what was written here before it went on
        "A run in a bucket resumes on an empty machine", "trainers/run_folders/sync_state.py",
        (("(behind or not self.changed(name))", "not self.changed(name)"),),
        ("tests/unit/test_synced.py::"
         "test_a_run_that_went_on_elsewhere_comes_back_with_all_that_was_written_there",),
    ),
    Mutation(  # a checkpoint counts as whole only where the run was when it was written
        "A run folder can be moved or copied, and the run resumes", "trainers/storage/checkpoint.py",
        (('"sha256": digest_of_file(path)}}\n',
          '"sha256": digest_of_file(path)}}\n'
          '        files[str(folder.resolve() / name / "state.pt")] = files["state.pt"]\n'),),
        ("tests/faults/test_damage.py::test_no_file_of_a_run_holds_a_path_outside_of_it_but_that_of_its_family",),
    ),
    Mutation(  # the second run waits for the first instead
        "Two runs at once in one process", "cluster/training/launch_run.py",
        (("if not TRAINING.acquire(blocking=False):", "if not TRAINING.acquire():"),),
        ("tests/contract/test_two_at_once.py::test_a_second_run_is_refused_and_the_first_is_right",),
    ),
)  # fmt: skip


class Wrong(Exception):
    """Why nothing can be told of a promise."""


class Ran(NamedTuple):
    """What tests came to: how many ran, and those that failed, with what they said."""

    count: int
    failed: dict[str, str]
    seconds: float

    def __str__(self) -> str:
        shown = [f"{name} ({said})" for name, said in self.failed.items()]
        shown[2:] = [f"{len(shown) - 2} more"] if len(shown) > 2 else []
        return "; ".join([*shown, f"{self.count} ran, {self.seconds:.0f} s"])


def drawn(seed: int) -> list[Promise]:
    """The rows that a seed chooses, of those that a test of `pytest` or `pytest --all` shows."""
    rows = [row for row in promises() if row.tests and row.tier != "`--long`"]
    of_ray = [row for row in rows if any(test.startswith("tests/on_ray") for test in row.tests)]
    chance = random.Random(seed)
    return chance.sample(of_ray, OF_RAY) + chance.sample([row for row in rows if row not in of_ray], OTHERS)


def known() -> list[Promise]:
    """The rows that MUTATIONS are of."""
    return [row for row in promises() for mutation in MUTATIONS if row.text.startswith(mutation.promise)]


def mutation_of(promise: Promise) -> Mutation:
    found = [mutation for mutation in MUTATIONS if promise.text.startswith(mutation.promise)]
    if len(found) != 1:
        what = f"a small change of the product that breaks just this, and tests of {', '.join(promise.tests)}"
        raise Wrong(f"{len(found)} mutations. Give MUTATIONS in tests/mutations.py one of this row: {what}")
    return found[0]


def mutated(text: str, mutation: Mutation) -> str:
    """A file's text with the change that fits it. Raises Wrong unless one does, in one place."""
    fitting = [edit for edit in mutation.edits if edit[0] in text]
    if len(fitting) != 1 or text.count(fitting[0][0]) != 1:
        raise Wrong(f"the old text must stand exactly once in {mutation.file}: {mutation.edits[0][0]!r}")
    return text.replace(*fitting[0])


@contextmanager
def copied(tree: Path) -> Iterator[Path]:
    """A copy of what git knows of a tree, and of files that are new."""
    words = ("git", "ls-files", "-coz", "--exclude-standard")
    listed = os.fsdecode(subprocess.run(words, cwd=tree, capture_output=True, check=True).stdout)
    with tempfile.TemporaryDirectory(prefix="mutated-", ignore_cleanup_errors=True) as folder:
        for name in filter(None, listed.split("\0")):
            if os.path.lexists(tree / name):  # else it is removed, and git does not know yet
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / name, Path(folder) / name, follow_symlinks=False)
        yield Path(folder)


def variables(copy: Path) -> dict[str, str]:
    """The environment in which the code of a copy is imported, wherever the package is installed from."""
    left = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**left, "PYTHONPATH": str(copy)}


def check_import(copy: Path, file: str) -> None:
    """The changed module can be imported, and is that of the copy. Raises Wrong where not."""
    module = file.removesuffix(".py").replace("/", ".")
    words = (sys.executable, "-c", f"import {module} as found; print(found.__file__)")
    done = subprocess.run(words, cwd="/", env=variables(copy), capture_output=True, text=True, check=False)
    if done.returncode or Path(done.stdout.strip()) != copy / file:
        raise Wrong(f"{module} cannot be imported from the copy: {(done.stdout + done.stderr).strip()[-500:]}")


def run(copy: Path, tests: Sequence[str]) -> Ran:
    """Run tests in a copy. Raises Wrong where they cannot be collected, or do not come to their end."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        words = [*f"{sys.executable} -m pytest -n 0 -q -p no:cacheprovider --junitxml {told}".split(), *tests]
        began = time.monotonic()
        done = subprocess.run(words, cwd=copy, env=variables(copy), capture_output=True, text=True, timeout=LONGEST)
        if done.returncode not in (0, 1):  # 2: errors of collection, 4: no such test, 5: no test at all
            raise Wrong(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-1500:]}")
        cases = list(ElementTree.parse(told).iter("testcase"))
    failed = {}
    for case in cases:
        for kind in ("failure", "error"):  # of the call; of the set-up, the end, or the collection
            for found in case.findall(kind):
                failed[case.get("name", "")] = said_by(found)
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Ran(len(cases) - skipped, failed, time.monotonic() - began)


def said_by(found: ElementTree.Element) -> str:
    """The message of a failure, and the statement that raised it."""
    statements = re.findall(r"^>\s+(.*)", found.text or "", re.MULTILINE)
    message = re.sub(r" ?\[\+\d+ more lines.*|\s+", " ", found.get("message", "")).strip()
    return message[:200] + (f", in `{statements[-1][:80]}`" if statements else "")


def proofs(ran: Ran) -> Ran:
    """Only tests that failed in their call or set-up by what they look at: not by a broken import or the clock."""
    wrong = re.compile(rf"collection failure|failed on teardown|(failed on setup with \")?({NO_PROOF})")
    return ran._replace(failed={name: said for name, said in ran.failed.items() if not wrong.match(said)})


def judge(promise: Promise, tree: Path, sound: bool) -> tuple[bool, str]:
    """Whether all is as it should be with one promise, and what to say of it."""
    mutation = mutation_of(promise)
    with copied(tree) as copy:
        if not sound:
            text = (copy / mutation.file).read_text(encoding="utf-8")
            (copy / mutation.file).write_text(mutated(text, mutation), encoding="utf-8")
        check_import(copy, mutation.file)
        ran = run(copy, mutation.tests)
    if sound:
        right = not ran.failed and ran.count > 0
        return right, f"{'passed' if right else 'NOT SOUND'}: {ran}"
    caught = proofs(ran)
    return bool(caught.failed), f"caught: {caught}" if caught.failed else f"NOT CAUGHT: {ran}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only rows whose text contains it")
    parser.add_argument("--seed", type=int, help="draw other rows by it")
    parser.add_argument("--tree", type=Path, default=ROOT, help="a checkout that is copied and broken (this one)")
    parser.add_argument("--sound", action="store_true", help="run the same tests without the changes")
    told = parser.parse_args()
    drawn_now = known() if told.seed is None else drawn(told.seed)
    rows = [row for row in drawn_now if not told.names or any(name in row.text for name in told.names)]
    git = ("git", "-C", str(told.tree), "describe", "--always", "--dirty", "--exclude=*")
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    seed = "" if told.seed is None else f"seed {told.seed}, "
    print(f"{seed}{len(rows)} promises; {told.tree.resolve()} at {commit}; {processor.name()}", flush=True)
    right = bool(rows)
    for row in rows:
        try:
            well, line = judge(row, told.tree.resolve(), told.sound)
        except (Wrong, subprocess.TimeoutExpired) as error:
            well, line = False, f"ERROR: {error}"
        right = right and well
        print(f"{row.text[:70].strip()}: {line}", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
