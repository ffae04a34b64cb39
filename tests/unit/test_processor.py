"""The kind of a processor, and what a run is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.host import requirements
from trainers.families import registry
from trainers.runtime import processor


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
         "flags\t\t: fpu avx2 avx512f avx512_bf16\n",
         "AuthenticAMD 25 avx512_bf16", "AMD EPYC (model 17)"),
        ("vendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: avx2 avx512f amx_bf16 avx512_bf16\n",
         "GenuineIntel amx_bf16", "Xeon (model ?)"),
        ("vendor_id\t: GenuineIntel\nflags\t\t: sse\n", "GenuineIntel", ""),
    ],
)  # fmt: skip
def test_a_kind_is_the_maker_and_the_newest_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: str, name: str
) -> None:
    (tmp_path / "cpuinfo").write_text(text + "\n\nvendor_id\t: another core\n")
    monkeypatch.setattr(processor, "CPUINFO", str(tmp_path / "cpuinfo"))
    assert processor.kind.__wrapped__() == kind
    assert not name or processor.name() == name


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        ("GenuineIntel 6 amx_bf16", {}, "2.0 to 2.5 times as fast"),
        ("AuthenticAMD 26 avx512_bf16", {}, "1.5 to 1.8 times as fast"),
        ("AuthenticAMD 26 avx512_bf16", {"precision": "bfloat16"}, ""), ("AuthenticAMD 23 avx2", {}, ""),
        ("GenuineIntel 6 amx_bf16", {"device": "cuda"}, ""), ("arm64", {}, ""),
    ],
)  # fmt: skip
def test_a_run_says_what_bfloat16_would_bring_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, words: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(processor, "kind", lambda: kind)
    config = registry.config_class("dcgan").of({"device": "cpu", **words}, "dcgan")
    assert requirements.faster_precision(config).endswith(told)
    assert bool(requirements.faster_precision(config)) == bool(told)
