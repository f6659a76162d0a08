"""Thresholds: the bound against scipy, the packaged numbers, and what they promise on held-out text."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from ariel_jax.algorithms.ariel import calibration
from ariel_jax.algorithms.ariel.calibration import ALPHA, LEVELS, Phrase, Tally
from ariel_jax.algorithms.ariel.mapper import STAGES, Mapping, asset
from ariel_jax.algorithms.ariel.types import SLOTS
from ariel_jax.errors import ConfigError
from experiments.ariel import calibrate as script


@pytest.fixture(scope="module")
def held_out():
    return calibration.lexicon_mappings("test")


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (0, 149), (1, 100), (5, 700), (40, 60), (3, 3), (0, 0)]
)
def test_the_bound_is_that_of_the_beta_distribution(k, n):
    expected = scipy.stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1.0
    assert calibration.clopper_pearson_upper(k, n) == pytest.approx(expected, abs=1e-9)


def test_149_right_answers_are_the_fewest_that_say_2_percent():
    assert calibration.clopper_pearson_upper(0, 149) <= 0.02
    assert calibration.clopper_pearson_upper(0, 148) > 0.02


def made(scores_and_right):
    pairs = []
    for score, right in scores_and_right:
        phrase = Phrase(level="L1", slot="data", text="t", gold="a")
        node = "a" if right else "b"
        pairs.append((phrase, Mapping(slot="data", text="t", node=node, score=score, by="lexicon")))
    return pairs


def test_the_smallest_threshold_that_keeps_the_bound_is_found():
    good, bad = [(0.9, True)] * 400, [(0.5, False)] * 50
    tau, kept = calibration.calibrate(made(good + bad + [(0.7, True)] * 100))
    assert 0.5 < tau <= 0.51
    assert (kept.mapped, kept.wrong) == (500, 0)


def test_a_threshold_below_one_that_failed_is_never_taken():
    """Errors at 0.9 stop the search, though many right answers at 0.5 would dilute them."""
    found = made([(0.9, True)] * 150 + [(0.9, False)] * 20 + [(0.5, True)] * 100_00)
    assert calibration.calibrate(found)[0] == 1.0
    assert calibration.tally(found).wrong_bound <= ALPHA  # what looking at all at once would accept


def test_too_few_phrases_allow_no_threshold():
    tau, kept = calibration.calibrate(made([(0.9, True)] * 148))
    assert (tau, kept.mapped) == (1.0, 0)


def test_calibrated_on_draws_the_rate_stays_below_alpha():
    """Phrases whose errors follow a known law: the true rate at tau exceeds alpha in at most 1 of 20."""
    rng = np.random.default_rng(0)
    exceeded = 0
    for _ in range(200):
        score = rng.uniform(0, 1, 600).round(2)
        right = rng.uniform(0, 1, 600) > np.where(score > 0.3, 0.002, 0.5)
        tau, _ = calibration.calibrate(made(zip(score, right, strict=True)), step=0.02)
        exceeded += tau < 0.275  # there the true rate is above 2 percent
    assert exceeded <= 0.05 * 200


@pytest.fixture(scope="module")
def calibrated():
    return calibration.calibrate_lexicon()


def test_the_packaged_numbers_are_those_that_calibration_finds(calibrated):
    """Whoever changes the lexicon, the ontology or a paraphrase must calibrate again."""
    assert calibrated.as_json() == asset("calibration.json")


def test_the_script_writes_what_is_packaged_and_says_where_it_differs(
    calibrated, held_out, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(calibration, "calibrate_lexicon", lambda: calibrated)
    monkeypatch.setattr(calibration, "lexicon_mappings", lambda split: held_out)
    assert script.main(["--write", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == asset("calibration.json")
    assert script.main([]) == 0
    found = calibration.report(held_out)["sentence"]
    assert f"| sentence | {found.n} | {found.coverage:.3f} |" in capsys.readouterr().out
    other = dataclasses.replace(calibrated, tau=0.5)
    monkeypatch.setattr(calibration, "calibrate_lexicon", lambda: other)
    assert script.main([]) == 1
    assert "run again with --write" in capsys.readouterr().err


def test_at_most_2_percent_of_the_mappings_of_held_out_text_are_wrong(held_out):
    pairs = [pair for found in held_out.values() for pair in found]
    for by in (None, "normalised", *STAGES):
        found = calibration.tally(pairs, by=by)
        assert found.mapped >= 149
        assert found.wrong_bound <= ALPHA, by


def test_labels_and_aliases_of_held_out_phrases_are_found(held_out):
    found = calibration.report(held_out)
    assert found["L0"].coverage >= 0.99
    assert found["L1"].coverage >= 0.95


def test_nothing_outside_of_the_ontology_is_mapped_and_the_report_has_every_level(held_out):
    found = calibration.report(held_out)
    assert set(found) == set(LEVELS)
    assert found["L4"].wrong_rate <= ALPHA
    assert found["L4"].n >= 100
    assert found["L2"].coverage < 0.5  # letters know no meaning; who improves on it may raise this


def test_a_mapper_that_takes_the_nearest_name_breaks_the_promise():
    """The planted bug: no threshold, no margin."""
    careless = calibration.lexicon_mappings(
        "test", levels=("L2", "L4", "unseen"), tau=0.0, margin=0.0, stages=STAGES
    )
    pairs = [pair for found in careless.values() for pair in found]
    assert calibration.tally(pairs).wrong_bound > 10 * ALPHA


def test_dev_and_test_share_no_template_description_or_outside_text():
    source = asset("paraphrases.json")
    for kind in ("templates", "sentences"):
        for slot in SLOTS:
            dev = {t for k in ("templates", "sentences") for t in source[k]["dev"][slot]}
            assert not dev & set(source[kind]["test"][slot]), (kind, slot)
            assert len(source["templates"]["test"][slot]) >= 8
            assert not set(source["plain"]["dev"][slot]) & set(source["plain"]["test"][slot])
    assert not set(source["values"]["dev"]) & set(source["values"]["test"])
    for slot in SLOTS:
        for kind in ("described", "outside"):
            dev, test = (
                {json.dumps(row) for row in source[kind][split][slot]} for split in ("dev", "test")
            )
            assert not dev & test


def test_gold_nodes_exist():
    nodes = {slot: {n.id for n in found} for slot, found in calibration.core_nodes().items()}
    for split in calibration.SPLITS:
        for level in LEVELS:
            for phrase in calibration.phrases(split, level):
                assert (phrase.gold is None) == (level == "L4")
                assert phrase.gold is None or phrase.gold in nodes[phrase.slot]
                assert "{x}" not in phrase.text


def test_unseen_names_are_not_in_the_lexicon_that_is_asked():
    nodes = calibration.core_nodes()
    known = calibration.without_names(nodes, "dev")
    asked = [a for node in nodes["data"] for a in node.aliases[0::2]]
    kept = {a for node in known["data"] for a in node.aliases}
    assert asked
    assert not set(asked) & kept


def test_tallies_count_what_they_say():
    found = Tally(n=10, mapped=5, wrong=1)
    assert (found.coverage, found.wrong_rate) == (0.4, 0.2)
    assert Tally(n=0, mapped=0, wrong=0).coverage == 0
    assert Tally(n=3, mapped=0, wrong=0).wrong_bound == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: calibration.phrases("train", "L0"),
        lambda: calibration.phrases("dev", "L9"),
        lambda: calibration.calibrate([], alpha=0),
        lambda: calibration.clopper_pearson_upper(1, 2, error=1),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(ConfigError):
        call()
