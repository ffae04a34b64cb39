"""Three digits in one image: what each channel holds, and that nothing held out is learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainers.data.sources import open_data
from trainers.data.stacked import Stacks
from trainers.families.adversarial.judges import SmallClassifier


@pytest.fixture(scope="module")
def stacks() -> Stacks:
    found: Stacks = open_data("stacked_digits", data_dir=Path("nowhere"))
    return found


def test_each_channel_is_a_digit_of_the_label(stacks: Stacks) -> None:
    batch = stacks.batch([0, 5, 99_999])
    assert batch["images"].shape == (3, 3, 32, 32)
    for place, row in enumerate((0, 5, 99_999)):
        singles = stacks.single.batch(stacks._train[row].tolist())
        assert torch.equal(batch["images"][place], singles["images"][:, 0])
        assert stacks.facts["class_names"][batch["labels"][place]] == "".join(map(str, singles["labels"].tolist()))


def test_all_thousand_classes_are_there_about_as_often(stacks: Stacks) -> None:
    labels = torch.cat([stacks.batch(range(start, start + 10_000))["labels"] for start in range(0, 100_000, 10_000)])
    counts = torch.bincount(labels, minlength=1000)
    assert len(counts) == stacks.facts["classes"] == 1000
    assert counts.min() > 50
    assert stacks.held_out == 26_000


def test_no_digit_is_learned_and_held_out() -> None:
    for evaluate_on in ("test", "validation"):
        data: Stacks = open_data("stacked_digits", data_dir=Path("nowhere"), evaluate_on=evaluate_on)
        learned, others = data._train, data._held_out
        assert (learned.max(), others.max()) == (data.single.size - 1, data.single.held_out - 1)
        shown, own = (
            data.held_out_batch([7])["images"][0],
            data.single.held_out_batch(others[7].tolist())["images"][:, 0],
        )
        assert torch.equal(shown, own)
        parts = data.single._parts
        if parts[0] is parts[1]:
            assert not set(data.single._train_rows) & set(data.single._held_out_rows)


def test_the_fingerprint_says_which_digits(stacks: Stacks) -> None:
    again, other = (open_data("stacked_digits", data_dir=Path("nowhere"), image_size=size) for size in (None, 16))
    assert again.fingerprint == stacks.fingerprint != other.fingerprint
    assert stacks.preview(4).shape == (4, 3, 32, 32)


def test_the_judge_sees_each_channel_by_itself(stacks: Stacks) -> None:
    torch.manual_seed(0)
    judge = SmallClassifier(3, 32, 10, stacked=3).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        whole = judge(images)
        judge.stacked = 1
        each = [judge(images[:, channel : channel + 1]) for channel in range(3)]
    assert whole.logits.shape == (2, 1000)
    assert torch.allclose(whole.features, torch.cat([one.features for one in each], 1), atol=1e-5)
    picked = torch.tensor([907, 12])
    hundreds, tens, ones = (one.logits.log_softmax(1) for one in each)
    expected = hundreds[[0, 1], [9, 0]] + tens[[0, 1], [0, 1]] + ones[[0, 1], [7, 2]]
    assert torch.allclose(whole.logits.log_softmax(1)[[0, 1], picked], expected, atol=1e-5)
