"""A worker process answers, fails with its own words, and both real sides measure a tiny model."""

import dataclasses
import sys
import textwrap

import pytest

from ariel_jax.bench import Worker, WorkerError, compare, in_dtypes, memory_rows, select
from ariel_jax.bench import worker as worker_module
from ariel_jax.bench.weights import fill, prompt


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that a child process can run with -m; returns its writer."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(body):
        text = "from ariel_jax.bench.worker import serve\n" + textwrap.dedent(body)
        (tmp_path / "side_for_test.py").write_text(text)
        return "side_for_test"

    return write


def test_what_a_library_prints_is_no_answer(module):
    name = module("""
        import os
        def load(spec):
            print("noise")
            return lambda request: {"twice": 2 * request["n"], "cpus": len(os.sched_getaffinity(0))}
        serve(load)
    """)
    with Worker(name, {"threads": 1}) as side:
        assert side.facts == {}
        assert side.ask({"n": 4}) == {"twice": 8, "cpus": 1}


def test_a_dead_worker_reports_its_last_words(module):
    name = module("""
        import sys
        def load(spec):
            sys.exit("no weights here")
        serve(load)
    """)
    with Worker(name, {"threads": 1}) as side, pytest.raises(WorkerError, match="no weights here"):
        side.wait()


def test_fill_repeats_one_block(monkeypatch):
    import numpy as np

    from ariel_jax.bench import weights

    a = np.empty((1030, 1024), np.float32)
    fill(a)
    assert np.array_equal(a.reshape(-1)[: weights._BLOCK][:6], a.reshape(-1)[weights._BLOCK :][:6])
    assert abs(a.std() - 0.02) < 1e-3
    assert prompt(2, 5, 100) == prompt(2, 5, 100)
    assert max(max(row) for row in prompt(4, 100, 7)) == 6


@pytest.mark.hf
def test_both_sides_measure_the_same_model():
    (case,) = select(["tiny"])
    (row,) = compare(case, pairs=1)
    assert row.theirs is not None
    assert row.ours > 0
    assert row.ratio == pytest.approx(row.theirs / row.ours)


@pytest.mark.hf
def test_narrow_weights_beside_a_narrow_rival():
    (case,) = in_dtypes(select(["tiny"]), ["int8"])
    case = dataclasses.replace(case, their_dtype="bf16", verifies=True)
    row, verification = compare(case, pairs=1)
    assert row.case == "tiny-int8"
    assert row.theirs is not None
    assert verification.ours > 0


@pytest.mark.hf
def test_a_growing_cache_beside_both_of_theirs_and_where_the_time_goes():
    (case,) = select(["growing-tiny"])
    rows = {row.metric: row for row in compare(case, pairs=1)}
    assert rows["decode ms/token, their cache: static"].theirs > 0
    parts = {m.removeprefix("ms/step: "): row.ours for m, row in rows.items() if "ms/step" in m}
    assert set(parts) == {"whole", "linear", "attention", "rest", "growth"}
    assert min(parts["whole"], parts["linear"], parts["attention"]) > 0
    assert parts["growth"] >= 0  # the profile may well advise to reserve it all


def test_temporaries_of_the_segment_are_reported():
    (case,) = select(["tiny"])
    (row,) = memory_rows(case, batches=(2,))
    assert row.case == "tiny, B=2"
    assert "bytes" in row.note


def test_workers_run_the_interpreter_of_this_process():
    assert worker_module.sys.executable == sys.executable
