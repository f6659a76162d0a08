"""One reservation pays for one run: with its own model, loss, ledger, keys, folder and process."""

import dataclasses
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.algorithms.dp_grape import _reservation, methods, run_file
from ariel_jax.algorithms.dp_grape.trainer import abandon, fit, plan_for, prepare
from ariel_jax.errors import ConfigError, StorageError
from ariel_jax.privacy import Ledger, batches
from ariel_jax.training.checkpoints import Checkpoints

PROGRAM = pathlib.Path(__file__).with_name("private_run.py")
toy = type("Toy", (), runpy.run_path(str(PROGRAM)))
prepared, PLAN, TERMS, SETTINGS = toy.prepared, toy.PLAN, toy.TERMS, toy.SETTINGS
PRICE = PLAN.price().epsilon(TERMS.delta)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "run.sqlite", TERMS) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped after two steps, and its ledger's file; copy both."""
    top = tmp_path_factory.mktemp("stopped")
    with Ledger(top / "run.sqlite", TERMS) as ledger:
        fit(prepared(), ledger, top / "run", stop_after=2)
    return top


@pytest.fixture
def halted(stopped, tmp_path):
    """A copy of `stopped`: folder and open ledger."""
    shutil.copytree(stopped / "run", tmp_path / "run")
    shutil.copy(stopped / "run.sqlite", tmp_path / "run.sqlite")
    with Ledger(tmp_path / "run.sqlite", TERMS) as ledger:
        yield tmp_path / "run", ledger


def test_a_run_whose_checkpoints_are_gone_is_not_made_anew_for_the_same_price(halted):
    folder, ledger = halted
    shutil.rmtree(folder / "checkpoints")
    head, note = ledger.head(), run_file.read(folder)
    with pytest.raises(ConfigError, match="has begun, and its checkpoints are gone"):
        fit(prepared(), ledger, folder)
    (folder / "checkpoints").mkdir()  # nor where the folder is there and empty
    with pytest.raises(ConfigError, match="second releases for the price of reservation 2"):
        fit(prepared(), ledger, folder)
    assert (ledger.head(), run_file.read(folder)) == (head, note)
    two = PLAN.replace(steps=2).price().epsilon(TERMS.delta)
    assert abandon(ledger, folder).epsilon(TERMS.delta) == pytest.approx(two)


def test_that_a_run_has_begun_is_noted_before_the_first_draw(tmp_path, ledger, monkeypatch):
    """And behind the checkpoint with its keys: cut off between the two, all of it is given back."""
    folder, seen = tmp_path / "run", []

    def draw(self, state):
        seen.append(
            (
                json.loads((folder / "run.json").read_text())["begun"],
                (folder / "checkpoints" / "0").exists(),
            )
        )
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batches.PoissonSource, "draw", draw)
        with pytest.raises(KeyboardInterrupt):
            fit(prepared(), ledger, folder)
    assert seen == [(True, True)]
    whole = abandon(ledger, folder)
    assert whole.epsilon(TERMS.delta) == pytest.approx(PRICE)
    spent = ledger.epsilon()

    def full(self, step, state, cursor):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        with pytest.raises(StorageError):
            fit(prepared(), ledger, tmp_path / "two")
    assert ledger.epsilon() > spent
    assert abandon(ledger, tmp_path / "two").epsilon(TERMS.delta) == 0
    assert ledger.epsilon() == pytest.approx(spent)
    with pytest.raises(ConfigError, match="given up after step 0 of 6"):
        fit(prepared(), ledger, tmp_path / "two")


def test_a_prepared_run_is_good_for_one_call(tmp_path, ledger):
    """With a mesh its parameters live on, and a second run would have the same noise."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    run = prepared()
    fit(run, ledger, tmp_path / "one", mesh=mesh, stop_after=1)
    spent = ledger.epsilon()
    for folder in ("two", "one"):
        with pytest.raises(ConfigError, match=r"was used in .*one: .* Prepare it again"):
            fit(run, ledger, tmp_path / folder, mesh=mesh)
    assert ledger.epsilon() == spent
    assert not (tmp_path / "two").exists()


def test_a_finished_run_names_the_account_that_paid(tmp_path, ledger):
    folder = tmp_path / "run"
    report = fit(prepared(), ledger, folder).report
    assert (report.ledger, report.account) == (str(ledger.path), "visits")
    assert f"| charged to | visits, in {ledger.path} |" in report.markdown()
    with Ledger(tmp_path / "second.sqlite", TERMS) as second:
        for reserve in (False, True):  # also where that number is another run's
            if reserve:
                second.reserve(PLAN.price(), details={"run": "another"})
            with pytest.raises(
                ConfigError, match=r"by reservation 2 of the account 'visits', which"
            ):
                fit(prepared(), second, folder)
    more = dataclasses.replace(TERMS, account="sales")
    with (
        Ledger(ledger.path, more) as same_file,
        pytest.raises(ConfigError, match="'visits', which 'sales' in"),
    ):
        fit(prepared(), same_file, folder)
    assert fit(prepared(), ledger, folder).report.account == "visits"


@dataclasses.dataclass(frozen=True)
class ScaledLoss:
    factor: float

    def __call__(self, params, example, key):
        return self.factor * toy.example_loss(params, example, key)


def begin(loss=toy.example_loss, params=None, **more):
    return prepare(
        toy.weights() if params is None else params,
        loss=loss, records=toy.records(), plan=PLAN, settings=SETTINGS, **more,
    )  # fmt: skip


def test_a_run_goes_on_with_its_own_weights_and_loss(halted, tmp_path, ledger):
    folder, ledger = halted
    other = toy.weights()
    other["b"] = dataclasses.replace(other["b"], b=other["b"].b.at[2].add(1e-7))
    with pytest.raises(
        ConfigError, match=r"made for weights='[0-9a-f]{16}' and now it is '[0-9a-f]{16}'"
    ):
        fit(begin(params=other), ledger, folder)
    with pytest.raises(
        ConfigError, match=r"for loss='example_loss' and now it is 'ScaledLoss\(factor=2.0\)'"
    ):
        fit(begin(ScaledLoss(2.0)), ledger, folder)
    with pytest.raises(ConfigError, match=r"for options=\{\} and now it is \{'inner': 'sgd'\}"):
        fit(begin(inner=optax.sgd), ledger, folder)
    fit(begin(), ledger, folder, stop_after=3)
    named = begin(
        lambda params, example, key: toy.example_loss(params, example, key), loss_name="mine"
    )
    assert named.loss == "mine"


def test_the_digest_tells_values_places_dtypes_and_shapes_apart():
    x = np.arange(4, dtype=np.float32)
    trees = [
        {"a": x}, {"b": x}, {"a": x.reshape(2, 2)}, {"a": x.view(np.int32)}, {"a": x + 1},
        {"a": x, "b": np.float32(1)}, {"a": jnp.asarray(x, jnp.bfloat16)}, {"a": x[:0]},
    ]  # fmt: skip
    assert len({_reservation.digest(tree) for tree in trees}) == len(trees)
    assert _reservation.digest({"a": jnp.asarray(x)}) == _reservation.digest(trees[0])
    # No address, which another process would not have.
    assert _reservation.name_of(ScaledLoss(len)) == "ScaledLoss(factor=<built-in function len>)"
    assert " at 0x" not in _reservation.name_of(ScaledLoss(toy.example_loss))


def test_rows_that_the_devices_cannot_divide_cost_nothing(tmp_path, ledger):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    odd = dataclasses.replace(SETTINGS, rows=43)
    with pytest.raises(ConfigError, match="43 rows cannot be divided over 2 devices"):
        fit(prepared(settings=odd), ledger, tmp_path / "run", mesh=mesh)
    parts = dataclasses.replace(SETTINGS, rows=44, microbatch=4)
    with pytest.raises(ConfigError, match="in microbatches of 4: choose a multiple of 8"):
        fit(prepared(settings=parts), ledger, tmp_path / "run", mesh=mesh)
    other = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    with pytest.raises(
        ConfigError, match=r"axes \['rows'\]: rows are split over one called 'data'"
    ):
        fit(prepared(), ledger, tmp_path / "run", mesh=other)
    assert ledger.epsilon() == 0
    assert not (tmp_path / "run").exists()


def test_numbers_that_cannot_be_are_refused_at_once(tmp_path):
    for microbatch in (0, -1, 2.0):
        with pytest.raises(ConfigError, match=f"microbatch={microbatch}"):
            dataclasses.replace(SETTINGS, microbatch=microbatch)
    with pytest.raises(ConfigError, match="rows=42 is no multiple of microbatch=4"):
        dataclasses.replace(SETTINGS, microbatch=4)
    with pytest.raises(ConfigError, match="about=0"):
        dataclasses.replace(SETTINGS, about=0)
    budget = {"about": 40, "probability": 0.2, "steps": 2, "epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(ConfigError, match=r"account_epsilon=800.0 .*in \(0, 500\]"):
        plan_for(**budget, account_epsilon=800.0)
    terms = dataclasses.replace(TERMS, epsilon=800.0)
    with (
        Ledger(tmp_path / "run.sqlite", terms) as ledger,
        pytest.raises(ConfigError, match=r"account_epsilon=800.0"),
    ):
        fit(prepared(), ledger, tmp_path / "run")


def test_the_number_of_records_is_told_nowhere_where_it_is_private(tmp_path):
    """N = 37 there; 40 is public, by the expected batch or by `about`."""
    plan = PLAN.replace(relation="add_remove")
    data = {name: array[:37] for name, array in toy.records().items()}
    terms = dataclasses.replace(TERMS, relation="add_remove", delta=0.026)
    few = dataclasses.replace(SETTINGS, rows=20)
    for about, of in ((None, "40"), (50, "50")):
        settings = dataclasses.replace(SETTINGS, about=about)
        with Ledger(tmp_path / f"{of}.sqlite", terms) as ledger:
            with pytest.raises(ConfigError, match=f"is not below 1 / {of} = ") as found:
                fit(
                    prepared(plan=plan, data=data, settings=settings),
                    ledger,
                    tmp_path / "run",
                    strict=True,
                )
            assert "37" not in str(found.value).replace(str(tmp_path), "")
            with pytest.raises(
                ConfigError, match="rows may add more to delta, and the plan says 0"
            ):
                fit(prepared(plan=plan, data=data, settings=few), ledger, tmp_path / "run")


def test_a_folder_is_one_call_s_alone(tmp_path, ledger, halted):
    folder, ledger = halted
    with run_file.locked(folder):
        for call in (lambda: fit(prepared(), ledger, folder), lambda: abandon(ledger, folder)):
            with pytest.raises(ConfigError, match="another process trains in"):
                call()
        code = "import sys, pathlib; from ariel_jax.algorithms.dp_grape import run_file\n"
        code += "with run_file.locked(pathlib.Path(sys.argv[1])): pass"
        root = str(PROGRAM.parents[3])
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], cwd=root, text=True, capture_output=True,
            env=os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}, check=False,
        )  # fmt: skip
        assert "another process trains in" in done.stderr
    assert (folder / "run.lock").stat().st_mode & 0o777 == 0o600
    # A folder in which nothing began is gone again; the lock of one that another holds stays.
    with run_file.locked(tmp_path / "new"):
        with pytest.raises(ConfigError), run_file.locked(tmp_path / "new"):
            pass
        assert (tmp_path / "new" / "run.lock").exists()
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, ledger):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    for i in range(6):
        (home / f"{i}.txt").write_text("mine")
    mode = home.stat().st_mode
    with pytest.raises(ConfigError, match=r"holds \['0.txt', .*'3.txt'\] and more and no run.json"):
        fit(prepared(), ledger, home)
    assert home.stat().st_mode == mode
    assert len(list(home.iterdir())) == 6
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        fit(prepared(), ledger, tmp_path / "file")


@pytest.mark.parametrize("method", methods.PRIVATE)
def test_every_method_goes_on_to_the_bits_of_a_run_that_was_not_stopped(
    method, tmp_path, monkeypatch
):
    monkeypatch.setattr(batches, "secrets", toy.KnownSeeds)
    settings = dataclasses.replace(SETTINGS, method=method)
    plan, terms = PLAN.replace(steps=4), dataclasses.replace(TERMS, epsilon=9.0)
    made = prepared(plan=plan, settings=settings)

    def again():
        """The same run with the same key of its noise, whose programs are compiled already."""
        params = jax.tree.map(jnp.copy, made.method.params)
        return dataclasses.replace(made, method=dataclasses.replace(made.method, params=params))

    with Ledger(tmp_path / "run.sqlite", terms) as ledger:
        whole = fit(again(), ledger, tmp_path / "whole")
        half = fit(again(), ledger, tmp_path / "half", stop_after=2)
        rest = fit(again(), ledger, tmp_path / "half")
        assert ledger.epsilon() == pytest.approx(plan.price().times(2).epsilon(terms.delta))
    first, ended, resumed = (
        [np.asarray(leaf) for leaf in jax.tree.leaves(fitted.params)]
        for fitted in (half, whole, rest)
    )
    assert [leaf.tobytes() for leaf in resumed] == [leaf.tobytes() for leaf in ended]
    assert any((a != b).any() for a, b in zip(first, ended, strict=True))
