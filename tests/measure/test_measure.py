import json
import subprocess
import sys
import warnings

import jax.numpy as jnp
import pytest

from ariel_jax import backend, measure
from ariel_jax.errors import ConfigError, IntegrityError, StorageError
from ariel_jax.measure import limits

TINY = limits.Sizes(n_bytes=1 << 16, n_product=16)


@pytest.fixture
def store(tmp_path):
    return measure.ProfileStore(tmp_path / "profiles.json")


def test_fingerprint_is_json_and_names_what_a_measurement_depends_on():
    facts = measure.fingerprint()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["platform"] == "cpu"
    assert facts["n_threads"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert {"cpu", "cpu_flags", "jax", "jaxlib", "python", "device_kind", "driver"} <= facts.keys()


def test_timed_reports_median_and_spread_and_counts_calls():
    calls = []

    def fun(x):
        calls.append(x)
        return x + 1

    timing = measure.timed(fun, jnp.zeros(()), n_runs=3, n_warmup=2)
    assert len(calls) == 5
    assert 0 < timing.min_s <= timing.median_s <= timing.max_s
    assert timing.n_runs == 3
    with pytest.raises(ConfigError, match="n_runs=0"):
        measure.timed(fun, 0, n_runs=0)


def test_measured_rates_are_positive_and_a_copy_is_no_faster_than_physics():
    found = limits.measure(TINY)
    rates = [
        found.read_bytes_per_s,
        found.copy_bytes_per_s,
        found.product_float32_flops_per_s,
        found.product_bfloat16_flops_per_s,
    ]
    # A call costs at least a microsecond, so 64 KiB cannot move faster than this.
    assert all(0 < rate < 2 * TINY.n_bytes / 1e-6 for rate in rates)


def test_ceilings_are_measured_once_and_again_when_asked(store, monkeypatch):
    runs = []

    def fake(sizes):
        runs.append(sizes)
        rate = float(len(runs))
        return measure.Ceilings(
            read_bytes_per_s=rate,
            copy_bytes_per_s=rate,
            product_float32_flops_per_s=rate,
            product_bfloat16_flops_per_s=rate,
            measured_at=0.0,
            load=0.0,
        )

    monkeypatch.setattr(limits, "measure", fake)
    first = measure.ceilings(store=store)
    assert measure.ceilings(store=store) == first
    assert len(runs) == 1
    again = measure.ceilings(store=store, remeasure=True)
    assert again.read_bytes_per_s == 2.0
    assert measure.ceilings(store=store) == again


def test_ceilings_without_a_cache_folder_warn_and_still_measure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setitem(limits._SIZES, "cpu", TINY)
    with pytest.warns(UserWarning, match="not kept: cannot make the cache folder"):
        found = measure.ceilings()
    assert found.read_bytes_per_s > 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = measure.ceilings()
        assert measure.ceilings() == stored
    assert backend.cache_directory() == tmp_path / "ariel_jax"


@pytest.mark.parametrize("text", ["{", "stale"])
def test_ceilings_that_cannot_be_read_are_measured_again(store, monkeypatch, text):
    monkeypatch.setitem(limits._SIZES, "cpu", TINY)
    if text == "stale":  # an entry of another version, with other fields
        store.put({"what": "ceilings", **measure.fingerprint()}, {"speed": 1.0})
    else:
        store.path.write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert measure.ceilings(store=store).read_bytes_per_s > 0
    assert str(caught[0].message).startswith("earlier ceilings cannot be read")


def test_store_keeps_values_apart_by_key_whatever_the_order_of_its_entries(store):
    assert store.get({"a": 1}) is None
    store.put({"a": 1, "b": [1, 2]}, {"x": 0.1})
    store.put({"a": 2}, {"x": 2.0})
    store.put({"b": [1, 2], "a": 1}, {"x": 1 / 3})
    assert store.get({"b": [1, 2], "a": 1}) == {"x": 1 / 3}
    assert store.get({"a": 2}) == {"x": 2.0}
    assert len(json.loads(store.path.read_text())["entries"]) == 2


def test_processes_that_put_at_once_lose_nothing(store):
    code = """
import sys
from ariel_jax.measure import ProfileStore
for i in range(20):
    ProfileStore(sys.argv[1]).put({"who": sys.argv[2], "i": i}, {"i": i})
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, store.path, who]) for who in ("a", "b")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert all(store.get({"who": who, "i": i}) == {"i": i} for who in "ab" for i in range(20))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 9, "entries": []}', '{"format": 1, "entries": [3]}']
)
def test_a_file_that_is_no_store_is_refused_with_the_remedy(store, text):
    store.path.write_text(text)
    with pytest.raises(IntegrityError, match="Delete the file"):
        store.get({})


def test_a_store_in_a_missing_folder_says_so(tmp_path):
    with pytest.raises(StorageError, match="create it first"):
        measure.ProfileStore(tmp_path / "absent" / "p.json").put({}, {})
