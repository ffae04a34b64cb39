"""The promises that are broken on purpose can be: each has a change that fits today's code (see `mutations.py`)."""

from __future__ import annotations

import pytest
from mutations import MUTATIONS, OF_RAY, OTHERS, ROOT, Mutation, Ran, Wrong, drawn, known, mutated, mutation_of, proofs
from test_promises import Promise, holds, promises


def test_each_mutation_is_of_a_promise_and_its_old_text_stands_exactly_once_in_its_file() -> None:
    rows = known()
    assert len(rows) == len({row.text for row in rows}) == len(MUTATIONS) == OF_RAY + OTHERS
    for row in rows:
        mutation = mutation_of(row)
        text = (ROOT / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.edits[0][0]) == 1, mutation
        assert mutated(text, mutation) != text


def test_a_seed_draws_five_promises_of_ray_and_seven_others() -> None:
    rows = drawn(1)
    assert rows == drawn(1) != drawn(2)
    assert len({row.text for row in rows}) == OF_RAY + OTHERS
    assert sum(any(test.startswith("tests/on_ray") for test in row.tests) for row in rows) == OF_RAY


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.promise[:40] for mutation in MUTATIONS])
def test_the_tests_of_a_mutation_are_there_and_are_of_its_row(mutation: Mutation) -> None:
    (row,) = [row for row in promises() if row.text.startswith(mutation.promise)]
    for test in mutation.tests:
        path, _, name = test.partition("::")
        assert any(holds(place, test) for place in row.tests)
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8")


def test_what_has_no_mutation_or_does_not_fit_is_told() -> None:
    with pytest.raises(Wrong, match=r"^0 mutations\. Give MUTATIONS in tests/mutations\.py one of this row"):
        mutation_of(Promise("Nobody has promised this", ("tests/unit/test_words.py",), "`pytest`"))
    mutation = Mutation("", "a.py", (("old", "new"),), ())
    for text in ("", "old old"):
        with pytest.raises(Wrong, match=r"exactly once in a\.py: 'old'"):
            mutated(text, mutation)


@pytest.mark.parametrize(
    ("said", "proves"),
    [
        ("assert 1 == 2", True), ("AssertionError: still working", True), ("Failed: DID NOT RAISE <class>", True),
        ("failed on setup with \"AssertionError: no\"", True), ("collection failure", False),
        ("failed on setup with \"ImportError: no\"", False), ("NameError: name 'x'", False),
        ("Failed: Timeout (>60.0s)", False), ("failed on teardown with \"AssertionError\"", False),
    ],
)  # fmt: skip
def test_only_what_a_test_has_looked_at_is_a_proof(said: str, proves: bool) -> None:
    assert bool(proofs(Ran(1, {"test_it": said}, 0.0)).failed) is proves
