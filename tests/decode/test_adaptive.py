"""The number of drafts follows what they cost and how many would hold; tokens never change."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.decode import (
    Adaptive,
    Autoregressive,
    DraftModel,
    NGram,
    Speculative,
    adaptive,
    generate,
    rollback,
    start,
)
from ariel_jax.decode.adaptive import Outlook
from ariel_jax.decode.replay import NGramReplay
from ariel_jax.errors import ConfigError
from ariel_jax.testing import tiny_config, tiny_model, tiny_params

PROPOSERS = (NGram(k=2), NGram(k=4), NGram(k=8))
DRAFTS = (0, 2, 4, 8)
CHEAP, DEAR = (1.0, 1.05, 1.1, 1.2), (1.0, 1.7, 1.9, 2.2)
RNG = np.random.default_rng(0)
LOOP = [5, 9, 7, 3, 11] * 80
NOISE = RNG.integers(0, 4000, 400).tolist()
PROMPT = 8


def slow_steps(text, first, k, longest, shortest):
    """Steps of k drafts each, looking the text through for every one of them."""
    at, taken = first, 0
    while at < len(text):
        held = 0
        for m in range(min(longest, at), shortest - 1, -1):
            suffix = text[at - m : at]
            ends = [e for e in range(m - 1, at - 1) if text[e - m + 1 : e + 1] == suffix]
            if ends:
                period = at - 1 - ends[-1]
                while held < k and at + held < len(text):
                    if text[ends[-1] + 1 + held % period] != text[at + held]:
                        break
                    held += 1
                break
        at, taken = at + held + 1, taken + 1
    return taken


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=40),
    st.integers(1, 2),
    st.integers(0, 2),
    st.integers(0, 5),
    st.integers(1, 7),
)
@settings(max_examples=150, deadline=None)
def test_a_replay_counts_the_steps_that_drafts_would_have_taken(text, shortest, more, k, piece):
    replay = NGramReplay(shortest + more, shortest)
    for at in range(0, len(text), piece):
        replay.extend(text[at : at + piece])
    first = len(text) // 3 + 1
    assert replay.steps(first, k) == slow_steps(text, first, k, shortest + more, shortest)


def test_a_replay_says_what_decoding_does():
    model = tiny_model("llama", max_positions=512)
    for k in (2, 5):
        run = start(
            model.cfg, model.params, [[5, 6, 7] * 6], max_new=90, strategy=Speculative(NGram(k=k))
        )
        run.advance()
        replay = NGramReplay(3, 2)
        replay.extend([5, 6, 7] * 6 + run.new_tokens(0))
        assert run.report.decode_steps == replay.steps(19, k)


def decoded(strategy, texts):
    """Choices taken over given texts, and tokens per unit of time over plain decoding's."""
    replays = [NGramReplay(3, 2) for _ in texts]
    for replay, text in zip(replays, texts, strict=True):
        replay.extend(text)
    at, taken, seconds = [PROMPT + 1] * len(texts), [], 0.0
    while any(a < len(t) for a, t in zip(at, texts, strict=True)):
        k, before = DRAFTS[strategy.at], list(at)
        steps = np.zeros(len(texts), int)
        for _ in range(strategy.review_steps):
            going = [row for row, text in enumerate(texts) if at[row] < len(text)]
            seconds += strategy.costs[strategy.at] * bool(going)
            for row in going:
                steps[row] += 1
                # One step: as far as the replay of the text so far gets in it.
                stop = at[row] + 1
                while stop < min(len(texts[row]), at[row] + k + 1) and (
                    slow_steps(texts[row][: stop + 1], at[row], k, 3, 2) == 1
                ):
                    stop += 1
                at[row] = stop
        taken.append(k)
        n_max = max(map(len, texts))
        tokens = np.zeros((len(texts), n_max), np.int32)
        for row, text in enumerate(texts):
            tokens[row, : at[row]] = text[: at[row]]
        strategy = strategy.choose(
            {
                "tokens": tokens,
                "length": np.array(at) - 1,
                "done": np.array([a >= len(t) for a, t in zip(at, texts, strict=True)]),
                "emitted": np.array(at) - before,
                "steps": steps,
                "proposed": 0 * steps,
                "accepted": 0 * steps,
            }
        )
    longest = max(len(t) for t in texts) - PROMPT - 1
    return taken, longest / seconds


@pytest.mark.parametrize(
    ("text", "costs", "best"),
    [
        (LOOP[:200], CHEAP, 8),
        (LOOP[:200], DEAR, 8),
        (LOOP[:200], (1.0, 1.5, 6.0, 10.0), 2),
        (LOOP[:200], (1.0, 4.0, 6.0, 10.0), 0),
        (NOISE[:200], CHEAP, 0),
    ],
)
def test_it_settles_on_the_number_of_drafts_that_pays_most(text, costs, best):
    taken, _ = decoded(adaptive(PROPOSERS, costs), [text])
    assert set(taken[2:]) == {best}


def test_where_drafts_cannot_win_nothing_is_tried():
    taken, speed = decoded(adaptive(PROPOSERS, DEAR), [NOISE[:300]])
    assert set(taken) == {0}
    assert speed == pytest.approx(1.0)


def test_it_follows_a_text_that_changes():
    text = LOOP[:120] + NOISE[:120] + LOOP[:120]
    taken, speed = decoded(adaptive(PROPOSERS, DEAR), [text])
    assert taken[0] == 0
    drafting = [k > 0 for k in taken]
    assert sum(a != b for a, b in itertools.pairwise(drafting)) == 3
    assert speed > 1.2


def test_requests_that_are_done_do_not_count_against_drafts():
    """Seven of eight end early and were noise; all drafts of the last one hold."""
    taken, _ = decoded(
        adaptive(PROPOSERS, DEAR), [LOOP[:160], *[NOISE[i : i + 30] for i in range(7)]]
    )
    assert taken[-1] == 8


def test_what_was_seen_compiles_nothing():
    one = adaptive(PROPOSERS, (1.0, 1.1, 1.2, 1.3))
    other = Adaptive(one.choices, one.costs, outlook=Outlook(steps=3))
    assert one == other
    assert hash(one) == hash(other)


def test_tokens_are_those_of_plain_decoding():
    model = tiny_model("llama", max_positions=512)
    prompts = [[5, 6, 7] * 6, [9, 2, 4]]
    strategy = adaptive((NGram(k=2), NGram(k=5)), (1.0, 0.9, 0.95))
    plain = generate(model, prompts, max_new=120, ignore_eos=True)
    ours = generate(model, prompts, max_new=120, ignore_eos=True, strategy=strategy)
    assert [c.tokens for c in ours.completions] == [c.tokens for c in plain.completions]
    assert ours.report.proposed > 0
    assert ours.report.accepted > 0


def test_a_text_that_is_rolled_back_is_read_anew():
    cfg = tiny_config("llama", max_positions=512)
    params, prompt = tiny_params(cfg), [5, 6, 7] * 6
    run = start(cfg, params, [prompt], max_new=100, strategy=adaptive((NGram(k=3),), (1.0, 1.1)))
    while run.advance(20):
        pass
    whole = run.new_tokens(0)
    run.state = rollback(run.state, [len(prompt) + 30])
    run._read()
    while run.advance(20):
        pass
    assert run.new_tokens(0) == whole
    seen = run.strategy.outlook.replays[0].tokens
    assert seen == (prompt + whole)[: len(seen)]


def test_a_review_waits_for_its_steps_and_then_for_longer():
    strategy = adaptive(PROPOSERS, DEAR, segment_steps=32)
    waits = []
    for n in range(1, 80):
        waits.append(strategy.review_steps)
        one = np.ones(1, int)
        strategy = strategy.choose(
            {
                "tokens": np.array([NOISE[: PROMPT + n]]),
                "length": np.array([PROMPT + n - 1]),
                "done": np.zeros(1, bool),
                "emitted": one,
                "steps": one,
            }
        )
    assert waits[:9] == [8, 7, 6, 5, 4, 3, 2, 1, 16]
    assert max(waits) == 32


def test_a_fixed_capacity_holds_for_every_later_choice():
    model = tiny_model("llama", max_positions=512)
    strategy = adaptive((NGram(k=2), NGram(k=8)), (1.0, 1.0, 1.0), segment_steps=8)
    out = generate(model, [[5, 6, 7] * 6], max_new=150, ignore_eos=True, strategy=strategy)
    assert out.report.growths == 0


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="rising rows"):
        Adaptive((Autoregressive(), Autoregressive()), (1.0, 1.0))
    with pytest.raises(ConfigError, match="one cost each"):
        adaptive(PROPOSERS, (1.0, 1.0))
    with pytest.raises(ConfigError, match="must be plain decoding"):
        Adaptive((Speculative(NGram(2)), Speculative(NGram(3))), (1.0, 1.1))
    with pytest.raises(ConfigError, match="costs"):
        adaptive(PROPOSERS, (1.0, 0.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="NGram"):
        adaptive((DraftModel(tiny_config("gpt2")),), (1.0, 1.1))
    with pytest.raises(ConfigError, match="tree"):
        adaptive((NGram(k=2, branches=2),), (1.0, 1.1))
    with pytest.raises(ConfigError, match="k only"):
        adaptive((NGram(k=2), NGram(k=4, longest=4)), (1.0, 1.1, 1.2))
