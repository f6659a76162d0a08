"""Records and sentences: what a style fixes, what only demonstrations hold, and the score of an answer."""

import functools
import json

import numpy as np
import pytest

from ariel_jax import load_pretrained
from ariel_jax.algorithms import mozo
from ariel_jax.models.config import Precision
from ariel_jax.testing import tiny_config
from ariel_jax.training.step import IGNORE, exit_nll
from experiments.mozo import answering, records, train
from experiments.mozo.rouge import common_length, rouge_l, words

RECORD = records.Record(name="Anna", place="Oslo", count=7, item="tea", day="Monday")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train.learn_tokenizer(folder, vocab_size=300, episodes=20)


def test_a_style_decides_every_word_but_those_of_the_record():
    first = records.write(RECORD, (0,) * len(records.SLOTS))
    assert first == "Note: guest Anna, took 7 boxes of tea, in Oslo, on Monday. Thanks."
    other = records.write(RECORD, (1, 3, 1, 2, 3, 2, 1, 3, 1, 1))
    assert other == "Report: LAST Monday / AT Oslo / BOUGHT 7 TONS of tea / FRIEND Anna! Over."


def test_styles_of_equal_length_give_different_sentences():
    styles = [(i,) * len(records.SLOTS) for i in range(3)]
    assert len({records.write(RECORD, style) for style in styles}) == 3
    assert all(len(set(choices)) == len(choices) for choices in records.SLOTS.values())


def test_a_task_is_its_seed_and_private_names_stand_in_demonstrations_only():
    task = records.draw_task(3, n_demonstrations=200, n_queries=50)
    assert task == records.draw_task(3, n_demonstrations=200, n_queries=50)
    assert task.style != records.draw_task(4, n_demonstrations=1, n_queries=1).style
    private = [any(n in d.output for n in records.PRIVATE_NAMES) for d in task.demonstrations]
    assert 0.15 < np.mean(private) < 0.35
    assert not any(n in q for n in records.PRIVATE_NAMES for q in task.queries + task.references)
    assert len(set(task.queries)) == 50


def test_a_demonstration_deviates_from_its_style_as_often_as_asked():
    rng = np.random.default_rng(0)
    style = records.draw_style(rng)
    assert records.deviate(rng, style, 0.0) == style
    moved = np.mean([np.not_equal(records.deviate(rng, style, 0.2), style) for _ in range(400)])
    assert 0.12 < moved < 0.18  # a fifth is drawn anew, a quarter of that the same again
    clean = records.draw_task(0, n_demonstrations=20, n_queries=1, noise=0.0)
    assert len({d.output.partition(" ")[0] for d in clean.demonstrations}) == 1


def test_every_sentence_is_learned_with_its_end_and_no_record_is(tokenizer):
    source = train.EpisodeSource(
        tokenizer=tokenizer, tokens_per_batch=400, lengths=((0, 200), (3, 100))
    )
    (batch, is_padding), state = source.next(source.init())
    (again, _), _ = source.next(source.init())
    assert state == {"step": 1}
    assert batch.tokens.shape == (2, 200)
    assert source.next({"step": 2})[0][0].tokens.shape == (2, 200)
    assert source.next({"step": 3})[0][0].tokens.shape == (4, 100)
    assert not is_padding.any()
    np.testing.assert_array_equal(batch.tokens, again.tokens)
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        learned = targets != IGNORE
        end = targets == tokenizer.eos_id
        # Wherever the next token is learned it is the next token, or the end instead of the break.
        followed = learned[:-1] & ~end[:-1]
        np.testing.assert_array_equal(targets[:-1][followed], tokens[1:][followed])
        text = tokenizer.decode([int(t) for t in targets[learned & ~end]])
        assert "Input" not in text
        assert end.sum() >= 2
        shown = tokenizer.decode([int(t) for t in tokens]).split("\n\n")
        assert text.startswith(shown[0].split("Output:")[1])


def test_prompt_and_answer_are_cut_into_the_same_tokens_apart_and_together(tokenizer):
    rng = np.random.default_rng(1)
    for demonstration in records.episode(rng, 20):
        parts = (
            train.before(demonstration.input), " " + demonstration.output, train.BETWEEN, "Input:"
        )  # fmt: skip
        apart = [tokenizer.encode(part, add_special_tokens=False) for part in parts]
        together = tokenizer.encode("".join(parts), add_special_tokens=False)
        assert [token for ids in apart for token in ids] == together


def test_a_run_goes_on_where_it_stopped_and_ends_with_a_model(tmp_path, capsys):
    cfg = tiny_config("llama", vocab_size=300, tie_embed=True, n_layers=1)
    options = {
        "tokens_per_batch": 144,
        "lengths": ((0.0, 24), (1.0, 16)),
        "cfg": cfg,
        "episodes": 20,
    }
    assert train.run(tmp_path, steps=1, **options)
    assert train.run(tmp_path, steps=2, export=tmp_path / "model", **options)
    done = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert [row["step"] for row in done] == [1, 2]
    model = load_pretrained(tmp_path / "model")
    text = records.write(RECORD, (0,) * len(records.SLOTS))
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text
    assert train.main(["--out", str(train.CHECKOUT / "results")]) == 2
    assert "outside" in capsys.readouterr().err


def test_rouge_by_hand():
    assert words("It's 7 boxes -- of TEA.") == ["it", "s", "7", "boxes", "of", "tea"]
    assert common_length("abcbdab", "bdcaba") == 4
    assert common_length("", "a") == common_length("xy", "ab") == 0
    assert rouge_l("police kill the gunman", "police killed the gunman") == 3 / 4
    assert rouge_l("the gunman kill police", "police killed the gunman") == 1 / 2
    assert rouge_l("a b c", "A, b; c!") == 1
    assert rouge_l("a", "a b c") == 2 * 1 / 4
    assert rouge_l("", "a") == rouge_l("...", "a") == 0


def test_prompts_are_laid_out_as_private_text_is_by_default():
    shown = mozo.PromptFormat()
    one = records.Demonstration(input="a, b", output="c d")
    assert shown.instruction == ""
    assert shown.query_text(one.input) == train.before(one.input)
    as_there = mozo.Demonstration(input=one.input, output=one.output)
    assert shown.demonstration_text(as_there) == train.before("a, b") + " c d" + train.BETWEEN


def test_demonstrations_help_the_model_that_is_kept_here():
    folder = answering.MODEL
    assert (folder / "model.safetensors").stat().st_size < 4_000_000
    assert len(answering.weights_sha256()) == 64
    model = load_pretrained(folder, precision=Precision.f32())
    assert model.cfg == train.decoder_config()
    ids = functools.partial(model.tokenizer.encode, add_special_tokens=False)
    task = records.draw_task(5, n_demonstrations=16, n_queries=4)
    tokens, targets = np.zeros((8, 240), np.int32), np.full((8, 240), IGNORE, np.int32)
    for row, (query, reference) in enumerate(zip(task.queries, task.references, strict=True)):
        shots = task.demonstrations[4 * row : 4 * row + 4]
        blocks = "".join(train.before(d.input) + f" {d.output}" + train.BETWEEN for d in shots)
        answer = ids(f" {reference}")
        for place, before in ((row, ""), (row + 4, blocks)):
            prompt = ids(before + train.before(query))
            whole = [*prompt, *answer]
            tokens[place, : len(whole)] = whole
            targets[place, len(prompt) - 1 : len(whole)] = [*answer, model.tokenizer.eos_id]
    learned = targets != IGNORE
    nats = exit_nll(
        model.cfg, model.params, tokens, np.where(learned, targets, 0), exits=(model.cfg.n_layers,)
    )[0]
    means = [
        float(np.asarray(nats)[rows][learned[rows]].mean()) for rows in (slice(4), slice(4, 8))
    ]
    assert means[1] < 0.6 * means[0]
    assert means[0] < 1  # the record itself is copied well
