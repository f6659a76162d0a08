"""Alternating pairs, ratios, verdicts and memory shortage, with workers that are not slow."""

from collections.abc import Iterator
from typing import ClassVar

import pytest

from ariel_jax.bench import cases, decode, in_dtypes, markdown, select
from ariel_jax.bench.cases import CASES, Metric, n_float32_bytes
from ariel_jax.errors import CheckpointError, ConfigError, MissingExtraError

CASE = select(["tiny"])[0]
FACTS = {"n_params": 1_000_000, "bytes_per_step": 5e6, "kernels": "0 recorded products"}


GROWN = {"growths": 4, "grow_s": 2e-3}


class FakeWorker:
    """Answers at once; ours takes 1 ms a step, theirs 3."""

    started: ClassVar[list[str]] = []
    asked: ClassVar[list[str]] = []
    rates: ClassVar[Iterator[float]] = iter(())

    def __init__(self, module, spec):
        self.module, self.facts = module, FACTS
        self.started.append(module)

    def ask(self, request):
        if request["ask"] == "ceiling":
            return {"read_bytes_per_s": next(self.rates)}
        if request["ask"] == "memory":
            return {"temp_bytes": 4 * request["batch"], "cache_bytes": 100}
        if request["ask"] == "verification":
            return {"one_s": 2e-3, "many_s": request["rows"] * 5e-4}
        if request["ask"] == "split":
            return {
                "whole_s": 3e-3,
                "linear_s": 1e-3,
                "attention_s": 5e-4,
                "length": 8,
                "capacity": 64,
            }
        self.asked.append(self.module)
        if "cache" in request:
            return {"first_s": 0.1, "rest_s": 0.05, "n_steps": 10}
        each = 1e-3 if self.module == decode.OURS else 3e-3
        return {"first_s": 10 * each, "rest_s": 20 * each, "n_steps": 20, **GROWN}

    def wait(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(decode, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "started", [])
    monkeypatch.setattr(FakeWorker, "asked", [])
    return FakeWorker


def test_sides_alternate_and_ratios_are_theirs_over_ours(fake):
    rows = decode.compare(CASE, pairs=3)
    theirs = decode.THEIRS["transformers"]
    assert fake.asked == [decode.OURS, theirs, theirs, decode.OURS, decode.OURS, theirs]
    assert fake.started == [decode.OURS, theirs]
    assert len(rows) == 1
    assert rows[0].ratio == pytest.approx(3)
    assert rows[0].ours == pytest.approx(1)
    assert rows[0].verdict == ""


def test_a_growing_cache_is_compared_split_and_measured_no_oftener_than_asked(fake):
    case = CASES["growing-gpt2"]
    rows = {row.metric: row for row in decode.compare(case, pairs=5)}
    assert fake.asked.count(decode.OURS) == 3
    assert rows[Metric.DECODE].verdict == "PASS"  # 3 against 1.4
    static = rows["decode ms/token, their cache: static"]
    assert (static.theirs, static.ratio) == pytest.approx((5.0, 5.0))
    assert static.verdict == ""
    parts = {m.removeprefix("ms/step: "): r.ours for m, r in rows.items() if "ms/step" in m}
    assert parts == pytest.approx(
        {"whole": 3.0, "linear": 1.0, "attention": 0.5, "rest": 1.5, "growth": 0.1}
    )
    alone = decode.compare(case, against=None, pairs=1)
    assert not [row for row in alone if "their cache" in row.metric]


def test_short_memory_gives_every_measurement_its_own_process(fake, monkeypatch):
    monkeypatch.setattr(decode, "available_bytes", lambda: 1 << 30)
    decode.compare(CASE, pairs=2)
    assert len(fake.started) == 4


def test_bandwidth_is_bytes_over_time_over_the_ceiling_of_that_moment(fake, monkeypatch):
    monkeypatch.setattr(fake, "rates", iter([10e9, 5e9, 4e9, 20e9]))
    rows = decode.compare(CASES["llama-1b"], against=None, pairs=2)
    assert [row.metric for row in rows] == [Metric.DECODE, "% of read bandwidth"]
    assert (rows[1].high, rows[1].low) == pytest.approx((50, 25))  # of 10 and of 20 GB/s
    assert rows[1].ratio == pytest.approx(37.5)
    assert rows[1].verdict == "FAIL"  # against 85


def test_prefill_compares_the_time_to_the_first_token(fake):
    (row,) = decode.compare(CASES["gpt2-prefill"], pairs=2)
    assert row.ours == pytest.approx(10)
    assert row.theirs == pytest.approx(30)
    assert row.verdict == "PASS"


def test_memory_rows_are_upper_limits(fake):
    rows = decode.memory_rows(CASE, batches=(1, 4))
    assert [row.verdict for row in rows] == ["PASS", "FAIL"]  # 4 % and 16 %
    assert "at most 5" in markdown(rows)


def test_a_target_needs_the_ratio_not_the_time(fake):
    (row,) = decode.compare(CASE, against=None, pairs=2)
    assert row.theirs is None
    assert row.verdict == ""


def test_each_dtype_has_its_own_aims_and_the_large_model_both_rivals():
    found = {case.name: case for case in in_dtypes(select(["full"]), ["f32", "bf16", "int8"])}
    assert found["gpt2-p896-int8"].target == 3.0
    assert found["gpt2-p896"].target == 1.5
    assert found["gpt2-p128-bf16"].target is None
    assert found["gpt2-prefill-bf16 (theirs bf16)"].their_dtype == "bf16"
    assert {"llama-1b", "llama-1b-int8", "llama-1b-int8 (theirs bf16)"} <= found.keys()
    assert found["llama-1b-int8"].bandwidth_target == 0.75
    for wrong in (["f32", "fp8"], []):
        with pytest.raises(ConfigError, match="f32, bf16, int8"):
            in_dtypes(select(["tiny"]), wrong)


def test_several_rows_are_compared_with_one(fake, monkeypatch):
    monkeypatch.setattr(fake, "rates", iter([1e9] * 4))
    (case,) = in_dtypes(select(["nano"]), ["f32"])
    row = decode.compare(case, against=None, pairs=1)[-1]
    assert (row.metric, row.ours) == ("step of 8 rows over one row", pytest.approx(2.0))
    assert row.verdict == "FAIL"  # at most 1.5


def test_unknown_case_names_the_known_ones():
    with pytest.raises(ConfigError, match="gpt2-p128"):
        select(["nothing"])
    assert [c.name for c in select(["smoke", "tiny"])] == ["tiny", "tiny-b2", "tiny-prefill"]


def test_missing_transformers_names_the_extra(monkeypatch):
    monkeypatch.setattr(decode.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"ariel-jax\[test\]"):
        decode.compare(CASE)


def test_sizes_are_those_of_the_models():
    assert n_float32_bytes("llama-1b") == pytest.approx(1.24e9 * 4, rel=0.1)
    assert n_float32_bytes("gpt2") == pytest.approx(124e6 * 4, rel=0.3)


def test_an_installation_without_nano_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(cases.importlib.resources, "files", lambda package: tmp_path)
    cases._nano.cache_clear()
    with pytest.raises(CheckpointError, match="Install the package again"):
        decode.compare(CASES["nano"])
    cases._nano.cache_clear()
