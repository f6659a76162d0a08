"""Tasks of the private-training experiments, the loop that they share, and what they conclude from it."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ariel_jax.algorithms import dp_grape
from ariel_jax.errors import ConfigError, MissingExtraError
from ariel_jax.models.paths import flatten
from ariel_jax.privacy import Plan
from experiments.dp_grape import ablations, common, docstrings, patches, spectrum, tasks, tuning


@pytest.fixture(scope="module")
def rows():
    return docstrings.collect()


def test_docstrings_are_of_reserved_modules_each_once_and_split_by_name(rows):
    tops = {row.module.split(".")[0] for row in rows}
    assert {"asyncio", "email", "tkinter", "turtle", "wsgiref"} <= tops
    assert tops.isdisjoint({"json", "os", "ast"})
    assert len({row.text for row in rows}) == len(rows)
    assert docstrings.collect() == rows
    tests = [row.split == "test" for row in rows]
    assert 0.15 < np.mean(tests) < 0.25
    known = {row.name: row for row in rows}["turtle.py#TNavigator.forward"]
    assert known.module == "turtle"
    assert known.text.startswith("Move the turtle forward")


def _lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_written_files_hold_texts_labels_and_the_licence(rows, tmp_path):
    counts = docstrings.write(tmp_path / "a" / "d.jsonl")
    first, second = (_lines(tmp_path / "a" / name) for name in ("d.jsonl", "d.test.jsonl"))
    assert counts == {"train": len(first), "test": len(second)}
    assert {row["label"] for row in first} == {row["label"] for row in second}
    assert {row["label"] for row in first} == set(docstrings.MODULES)
    texts = {row["text"] for row in first}
    assert texts.isdisjoint(row["text"] for row in second)
    assert "Python Software Foundation License" in (tmp_path / "a" / "d.NOTICE").read_text()
    assert docstrings.main(["--out", str(tmp_path / "lm.jsonl"), "--language-model"]) == 0
    lines = _lines(tmp_path / "lm.jsonl")
    assert {tuple(row) for row in lines} == {("text",)}
    assert texts < {row["text"] for row in lines}
    assert docstrings.main(["--out", str(tmp_path / "d.json")]) == 2


def test_a_library_without_the_modules_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no docstrings"):
        docstrings.collect(tmp_path)
    (tmp_path / "turtle.py").write_text('"""A docstring that is long enough."""\n')
    found = docstrings.collect(tmp_path)
    assert [row.module for row in found] == ["turtle"]
    with pytest.raises(ConfigError, match=r"asyncio\.base_events"):
        docstrings.labelled(found)


@pytest.mark.parametrize("name", ["clusters", "docstrings"])
def test_parts_of_a_task_share_no_record_and_its_loss_is_that_of_its_logits(name):
    task = tasks.load(name, tiny=True)
    seen = [{row.tobytes() for row in part["x"]} for part in (task.train, task.test)]
    kept = {row.tobytes() for row in task.validation["x"]}
    if name == "clusters":  # two docstrings of the same words are one bag of words
        assert seen[0].isdisjoint(seen[1])
        assert kept.isdisjoint(seen[0] | seen[1])
    params = task.init(0)
    x, y = task.test["x"][:5], task.test["y"][:5]
    logits = np.stack([np.asarray(task.logits(params, jnp.asarray(row))) for row in x])
    found = task.accuracy(params, {"x": x, "y": y})
    assert float(found) == pytest.approx(np.mean(logits.argmax(1) == y))
    example = {"x": jnp.asarray(x[0]), "y": jnp.asarray(y[0])}
    expected = np.log(np.exp(logits[0]).sum()) - logits[0][y[0]]
    assert float(task.loss(params, example, jax.random.key(0))) == pytest.approx(expected, rel=1e-5)
    assert hash(task.loss) == hash(tasks.load(name, tiny=True).loss)


def _fake_digits():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (1797, 8, 8)).astype(np.float64)
    return types.SimpleNamespace(images=images, target=rng.integers(0, 10, 1797))


def test_digits_need_scikit_learn_and_are_cut_into_three(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*ariel-jax\[test\]"):
        tasks.digits.__wrapped__()
    there = types.SimpleNamespace(load_digits=_fake_digits)
    monkeypatch.setitem(sys.modules, "sklearn", types.SimpleNamespace(datasets=there))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", there)
    task = tasks.digits.__wrapped__()
    sizes = [len(part["y"]) for part in (task.train, task.validation, task.test)]
    assert sizes == [1197, 240, 360]
    assert task.train["x"].shape[1:] == (8, 8, 1)
    assert task.train["x"].max() == 1


def test_the_patch_model_reads_every_patch_at_its_place():
    model = patches.model(image=8, channels=1, classes=3, tiny=True)
    params = model.init(0)
    specs = dp_grape.make_specs(
        params, common.grape_config(types.SimpleNamespace(widths=model.widths, frozen=()), 4)
    )
    assert {spec.path for spec in specs.projected} == set(model.widths)
    image = np.random.default_rng(0).random((8, 8, 1), np.float32)
    logits = jax.jit(model.logits)
    base = np.asarray(logits(params, image))
    for row, column in ((0, 0), (7, 7), (3, 4)):
        other = image.copy()
        other[row, column] += 0.5
        assert np.abs(np.asarray(logits(params, other)) - base).max() > 1e-5
    # The patches in another order, with their places in that order too, are the same image.
    order = np.array([2, 0, 3, 1])
    cut = image.reshape(2, 4, 2, 4).transpose(0, 2, 1, 3).reshape(4, 4, 4)
    moved = cut[order].reshape(2, 2, 4, 4).transpose(0, 2, 1, 3).reshape(8, 8, 1)
    places = params.pos_embed.at[1:].set(params.pos_embed[1:][order])
    again = np.asarray(logits(params.replace(pos_embed=places), moved))
    np.testing.assert_allclose(again, base, atol=1e-5)
    assert np.abs(np.asarray(logits(params, moved)) - base).max() > 1e-5


def test_ranks_are_a_quarter_of_each_axis_or_one_for_all():
    task = tasks.load("clusters")
    params = task.init(0)
    quarter = dp_grape.make_specs(params, common.grape_config(task, None))
    assert [(spec.path, spec.rank) for spec in quarter.projected] == [
        ("layers.0.w", 16), ("layers.1.w", 64),
    ]  # fmt: skip
    whole = dp_grape.make_specs(params, common.grape_config(task, 64))
    assert [spec.path for spec in whole.projected] == ["layers.1.w"]
    assert "layers.0.w" in whole.full
    assert set(flatten(params)) == {s.path for s in whole.projected} | set(whole.full)


def test_noise_is_that_of_the_budget():
    sigma = common.noise_for(4.0, 1 / 8, 50)
    plan = Plan(noise_multiplier=sigma, steps=50, sampling_probability=1 / 8)
    assert 3.99 < plan.epsilon(common.DELTA) <= 4.0


def test_the_loop_in_one_program_is_the_one_over_the_sources_own_batches():
    setup = tuning.Setup(task="clusters", tiny=True, epsilon=4.0, probability=1 / 8, steps=4)
    method, src = tuning.prepared("dp-grape", setup, 0.5, 0)
    score = lambda params: {"weight": params["layers"][0].w, "bias": params["layers"][2].b}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam
        found = common.train(method, src, score, seed=7, steps=4, rates=(0.01, 0.03), looks=2)
        last = _stepped(method, src, seed=7, steps=4, rate=0.03)["layers"]
    assert found.steps.tolist() == [2, 4]
    np.testing.assert_allclose(found.scores["weight"][1, 1], last[0].w, atol=1e-5)
    np.testing.assert_allclose(found.scores["bias"][1, 1], last[2].b, atol=1e-5)
    assert np.abs(found.scores["weight"][0, 1] - last[0].w).max() > 1e-3


def _stepped(method, src, *, seed, steps, rate):
    """Parameters after so many steps, one by one."""
    state = src.init() | {"seed": common.secret(seed)}
    params, inner = method.params, method.tx.init(method.params)
    for step in range(steps):
        (batch, is_padding), state = src.next(state)
        key = jax.random.fold_in(jax.random.key(3000 + seed), step)
        batch = jax.tree.map(jnp.asarray, batch)
        grads, _ = method.grad_fn(params, batch, jnp.asarray(is_padding), key)
        updates, inner = method.tx.update(grads, inner, params)
        params = optax.apply_updates(params, jax.tree.map(lambda leaf: rate * leaf, updates))
    return params


def test_energy_is_kept_by_the_gradients_own_subspace_and_by_chance_in_anothers():
    rng = np.random.default_rng(0)
    low = rng.standard_normal((40, 3)) @ rng.standard_normal((3, 64))
    values, stable, kept = found = spectrum.describe(low, low, 3)
    assert values[0] == 1
    assert values[3] < 1e-12
    assert 1 <= stable <= 3
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(spectrum.describe(low.T, low.T, 3)[1:], found[1:])
    noisy = low + 1e4 * rng.standard_normal(low.shape)
    _, stable, _ = spectrum.describe(noisy, low, 10)
    assert stable > 10
    kept = [spectrum.describe(rng.standard_normal(low.shape), low, 10)[2] for _ in range(50)]
    assert np.mean(kept) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(("never", "verdict"), [(0.5, "PASS"), (0.9, "FAIL")])
def test_an_ablation_is_judged_by_what_it_is_compared_with(monkeypatch, never, verdict):
    means = {"refresh 50": 0.7, "refresh 1": 0.6, "refresh never": never}
    monkeypatch.setattr(ablations, "accuracies", lambda name, *how: np.full((2, 1), means[name]))
    assert ablations.judged("refresh 50", ())["verdict"] == verdict
