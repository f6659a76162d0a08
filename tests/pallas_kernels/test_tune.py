"""What is recorded decides what `auto` takes, shape by shape."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from ariel_jax import measure
from ariel_jax.cli import main as cli
from ariel_jax.errors import StorageError
from ariel_jax.pallas_kernels import benchmark, dispatch, native, tune
from ariel_jax.pallas_kernels.linear.cpu import shape_key


@pytest.fixture
def records(native_kernels, monkeypatch, tmp_path):
    """An empty table of its own, and nothing that comes with the package."""
    monkeypatch.setattr(tune, "PACKAGED", tmp_path / "records")
    monkeypatch.setattr(tune, "store", lambda: measure.ProfileStore(tmp_path / "kernels.json"))
    tune.records.cache_clear()
    yield tmp_path / "kernels.json"
    tune.records.cache_clear()


def explain(rows, n_in=24, n_out=10):
    x = jax.ShapeDtypeStruct((rows, n_in), jnp.float32)
    w = jax.ShapeDtypeStruct((n_out, n_in), jnp.float32)
    options = {"scale": None, "precision": None, "out_dtype": jnp.float32}
    return dispatch.op("linear").explain(x, w, None, **options)


def test_auto_takes_a_kernel_where_it_is_recorded_to_pay(records):
    assert explain(1).chosen == "reference"
    assert "kernels bench" in explain(1).reasons["native"]
    x, w = jnp.ones((4, 24)), jnp.ones((10, 24))
    tune.record("linear", {shape_key(x, w, x.dtype): {"native": 1.0, "reference": 2.0}})
    slow = {"native": 0.98, "reference": 1.0}
    tune.record("linear", {shape_key(x[:1], w, x.dtype): slow})
    assert explain(4).chosen == explain(3).chosen == "native"  # 3 rows count as 4
    assert explain(1).chosen == "reference"
    assert "0.98 times" in explain(1).reasons["native"]
    assert explain(4, n_out=11).chosen == "reference"
    assert explain(40).chosen == "reference"
    with dispatch.override(linear="reference"):
        assert explain(4).chosen == "reference"


def test_what_comes_with_the_package_counts_for_such_processors(records):
    x, w = jnp.ones((4, 24)), jnp.ones((10, 24))
    row = {"op": "linear", "shape": shape_key(x, w, x.dtype)}
    row["seconds"] = {"native": 1.0, "reference": 2.0}
    own = {"native": 3.0, "reference": 2.0}
    here = {name: native.describe()[name] for name in tune.SAME}
    tune.PACKAGED.mkdir()
    other = {"tiles": not here["tiles"], "rows": [row | {"seconds": own}]}
    (tune.PACKAGED / "another.json").write_text(json.dumps(here | other))
    packaged = tune.PACKAGED / "this.json"
    for run, chosen in ((here, "native"), (here | {"threads": 999}, "reference")):
        packaged.write_text(json.dumps(run | {"rows": [row]}))
        tune.records.cache_clear()
        assert explain(4).chosen == chosen
    packaged.write_text(json.dumps(here | {"rows": [row]}))
    tune.record("linear", {row["shape"]: own})
    assert explain(4).chosen == "reference"  # what was measured here wins


def test_a_table_that_cannot_be_read_leaves_the_reference(records):
    records.write_text("{")
    assert explain(4).chosen == "reference"


def test_rows_are_rounded_up_to_what_is_recorded():
    assert [tune.bucket(n) for n in (1, 2, 3, 8, 9, 17, 32, 33)] == [1, 2, 4, 8, 16, 32, 32, 512]


def test_aims_are_judged_by_their_side():
    assert benchmark.Verdict(what="a", value=0.9, target=0.9).holds
    assert not benchmark.Verdict(what="a", value=0.89, target=0.9).holds
    assert not benchmark.Verdict(what="a", value=1.4, target=1.3, at_least=False).holds


def test_shares_are_of_the_bandwidth_measured_around_each_product(native_kernels, monkeypatch):
    rates = iter([10.0, 30.0] * 20)
    monkeypatch.setattr(
        benchmark.measure, "ceilings", lambda **_: SimpleNamespace(read_bytes_per_s=next(rates))
    )
    timed = []

    def fixed(run, **_):
        timed.append(run())
        return SimpleNamespace(median_s=2.0)

    monkeypatch.setattr(benchmark.measure, "timed", fixed)
    found = {v.what: v for v in benchmark.shares(((64, 96),), n_repeats=1)}
    assert len(found) == len(timed) == 8
    one = found["1 x 64 to 96, float32/float32/float32: share of read bandwidth"]
    assert one.value == pytest.approx(12 * 64 * 96 * 4 / 2 / 20)
    assert one.target == 0.9


@pytest.fixture
def call(records, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)

    def run(*arguments):
        status = cli.main(["kernels", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_show_says_what_is_loaded(call):
    status, out, _ = call("show")
    assert status == 0
    assert native.describe()["instructions"] in out
    assert json.loads(call("show", "--json")[1])["loaded"] is True


def test_bench_makes_a_table_and_records_no_smoke(call, records, tmp_path):
    status, out, err = call("bench", "--scale", "smoke", "--out", str(tmp_path / "out"))
    assert status == 0
    assert out.count("| linear |") == 8
    assert out.count("| vocab_top1 |") == 6
    assert out.count("| decode_attention |") == 4
    assert "native" in err
    made = json.loads((tmp_path / "out" / "kernels.json").read_text())
    assert all(min(row["seconds"].values()) > 0 for row in made["rows"])
    assert (tmp_path / "out" / "kernels.md").read_text() in out
    assert not records.exists()


def test_an_interrupted_bench_keeps_what_it_measured(call, records, monkeypatch):
    def products(**_):
        yield benchmark.Timed(
            op="linear", shape="a", seconds={"native": 1, "reference": 2}, n_bytes=8
        )
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "products", products)
    assert call("bench")[0] == 130
    assert tune.records("linear") == {"a": {"native": 1, "reference": 2}}


def test_bad_input_is_a_message_and_status_2(call, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = call("bench", "--scale", "smoke", "--out", str(tmp_path / "file"))
    assert (status, "file" in err) == (2, True)
    assert call("show", "--out", "x")[0] == 2
    monkeypatch.setattr(native, "why_not", lambda: "they are not built")
    status, _, err = call("bench", "--scale", "smoke")
    assert (status, "not built" in err) == (2, True)


def test_a_cache_folder_that_cannot_be_used_leaves_the_reference(
    native_kernels, monkeypatch, tmp_path
):
    monkeypatch.setattr(tune, "PACKAGED", tmp_path / "records")

    def refuse():
        raise StorageError("others can write to it")

    monkeypatch.setattr(tune, "store", refuse)
    tune.records.cache_clear()
    assert explain(4).chosen == "reference"
    tune.records.cache_clear()
