"""Drafts from the text itself and the rejection rule; the contract suite ties whole strategies."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.decode import (
    Arithmetic,
    DraftModel,
    NGram,
    SamplingParams,
    Speculative,
    generate,
    start,
)
from ariel_jax.decode import speculative as module
from ariel_jax.decode.sampling import make_rows
from ariel_jax.decode.speculative import Draft, lookup
from ariel_jax.errors import ConfigError
from ariel_jax.testing import tiny_config, tiny_model, tiny_params

N_MAX = 24


def slow_lookup(text, k, longest, shortest):
    """Prompt lookup as its definition reads; None without a match."""
    n = len(text)
    for m in range(min(longest, n), shortest - 1, -1):
        for end in range(n - 2, m - 2, -1):
            if text[end - m + 1 : end + 1] == text[n - m :]:
                period = n - 1 - end
                return [text[end + 1 + j % period] for j in range(k)]
    return None


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=N_MAX - 4), min_size=3, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2),
)
@settings(max_examples=100, deadline=None)
def test_lookup_equals_its_definition_whatever_stands_behind_the_text(texts, shortest, more):
    longest, k = shortest + more, 4
    tokens = np.random.default_rng(0).integers(0, 3, (3, N_MAX)).astype(np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    known = jnp.asarray([len(t) for t in texts], jnp.int32)
    drafts, valid = lookup(jnp.asarray(tokens), known, k=k, longest=longest, shortest=shortest)
    for row, text in enumerate(texts):
        want = slow_lookup(text, k, longest, shortest)
        assert bool(valid[row].all()) == bool(valid[row].any()) == (want is not None)
        if want is not None:
            assert drafts[row].tolist() == want


N = 20_000
P = np.array([[0.5, 0.2, 0.2, 0.1, 0.0], [0.05, 0.05, 0.3, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
Q = np.array([[0.1, 0.4, 0.2, 0.2, 0.1], [0.3, 0.3, 0.2, 0.1, 0.1]])
# Chi-square above which a sample of the right law falls once in 10 million: 4 degrees of freedom.
LIMIT = 37.3


def chi_square(values, p):
    seen = np.bincount(values, minlength=5)
    assert seen[p == 0].sum() == 0
    want = p[p > 0] * len(values)
    return ((seen[p > 0] - want) ** 2 / want).sum()


def verify(seed, *, certain=False, invalid=False, rule=module._rejection):
    """First tokens, and second tokens where the first draft held, of N independent rows."""
    rng = np.random.default_rng(seed)
    drafts = np.stack([rng.choice(5, N, p=q) for q in Q], axis=1).astype(np.int32)
    valid = np.ones((N, 2), bool)
    if invalid:
        valid = rng.random((N, 2)) < 0.6
    one = SamplingParams(temperature=1.0, seed=0)
    state = types.SimpleNamespace(
        sampling=jax.tree.map(lambda leaf: jnp.repeat(leaf, N, axis=0), make_rows([one], (7,))),
        keys=jax.random.split(jax.random.key(seed), N),
        prompt_length=jnp.ones(N, jnp.int32),
        tokens=jnp.zeros((N, 4), jnp.int32),
    )
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(P, jnp.float32))[None], (N, 3, 5))
    logq = None if certain else jnp.broadcast_to(jnp.log(jnp.asarray(Q, jnp.float32)), (N, 2, 5))
    draft = Draft(tokens=jnp.asarray(drafts), valid=jnp.asarray(valid), logq=logq)
    out, held = jax.jit(lambda d: rule(state, logits, d, jnp.ones(N, jnp.int32)))(draft)
    out, held = np.asarray(out), np.asarray(held)
    return out[:, 0], out[held >= 1, 1], out[held >= 2, 2], held


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("form", [{}, {"certain": True}, {"invalid": True}], ids=str)
def test_rejection_leaves_the_law_as_it_is(seed, form):
    first, second, third, held = verify(seed, **form)
    assert chi_square(first, P[0]) < LIMIT
    assert chi_square(second, P[1]) < LIMIT
    assert chi_square(third, P[2]) < LIMIT
    assert 0 < (held == 2).mean() < (held >= 1).mean() < 1


def test_rejection_accepts_the_overlap_of_the_two_laws():
    *_, held = verify(4)
    overlap = np.minimum(P[0], Q[0]).sum()
    spread = np.sqrt(overlap * (1 - overlap) / N)
    assert abs((held >= 1).mean() - overlap) < 5.3 * spread  # once in 10 million


def test_a_planted_fault_in_the_rule_is_noticed():
    def sloppy(state, logits, draft, length):
        """Draws from the whole law instead of the residual after a rejection."""
        out, held = module._rejection(state, logits, draft, length)
        again = module._draw(state, logits[:, 0], length + 100, 2)
        return out.at[:, 0].set(jnp.where(held == 0, again, out[:, 0])), held

    first, *_ = verify(1, rule=sloppy)
    assert chi_square(first, P[0]) > LIMIT


def test_drafts_save_steps_on_a_text_that_repeats():
    model = tiny_model("llama", max_positions=512)
    plain = generate(model, [[5, 6, 7] * 6], max_new=96, ignore_eos=True)
    drafted = generate(
        model, [[5, 6, 7] * 6], max_new=96, ignore_eos=True, strategy=Speculative(NGram(k=4))
    )
    assert drafted.completions[0].tokens == plain.completions[0].tokens
    report = drafted.report
    assert report.decode_tokens == plain.report.decode_tokens == 95
    # Every step yields one token and what was accepted of its drafts, but at the limit.
    assert 95 <= report.decode_steps + report.accepted <= 95 + 4
    assert report.proposed >= report.accepted > 0
    assert report.decode_steps < plain.report.decode_steps


def test_drafts_up_to_the_last_position_stay_finite():
    cfg = tiny_config("gpt2", max_positions=40)
    params = tiny_params(cfg)
    prompt = [3, 4] * 10
    tokens = []
    for strategy in (None, Speculative(NGram(k=5, shortest=1))):
        run = start(cfg, params, [prompt, prompt[:7]], max_new=20, strategy=strategy)
        run.advance()
        tokens.append([run.new_tokens(0), run.new_tokens(1)])
        assert all(np.isfinite(leaf).all() for leaf in (*run.state.cache.k, *run.state.cache.v))
    assert tokens[0] == tokens[1]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="shortest"):
        NGram(longest=2, shortest=3)
    with pytest.raises(ConfigError, match="k=0"):
        NGram(k=0)
    with pytest.raises(ConfigError, match="coupled"):
        Speculative(NGram(), verifier="hope")


@pytest.fixture(scope="module")
def pair():
    """A model and a smaller one of the same vocabulary."""
    big = tiny_config("llama", max_positions=256)
    small = tiny_config("gpt2", n_layers=1, vocab_size=big.vocab_size, max_positions=256)
    return big, tiny_params(big), small, tiny_params(small, seed=9)


PROMPTS = [[3, 4, 5], [7] * 9]
MIXED = [SamplingParams(temperature=0.8, top_p=0.9, seed=3), SamplingParams()]


def decode(pair, strategy=None, extra=None, **options):
    run = start(
        pair[0],
        pair[1],
        PROMPTS,
        max_new=30,
        strategy=strategy,
        extra=extra,
        sampling=MIXED,
        **options,
    )
    while run.advance(7):
        pass
    return run


def test_a_draft_model_changes_the_steps_and_not_the_tokens(pair):
    plain = decode(pair)
    run = decode(pair, Speculative(DraftModel(pair[2], k=3)), pair[3], capacity=Arithmetic(16, 16))
    for row in range(2):
        assert run.new_tokens(row) == plain.new_tokens(row)
    assert run.report.growths > 0
    assert run.report.accepted < run.report.proposed


def test_a_model_that_drafts_for_itself_is_always_right(pair):
    run = decode(pair, Speculative(DraftModel(pair[0], k=3)), pair[1])
    # 29 tokens after the first in steps of 4, the last one cut at the limit.
    assert run.report.decode_steps == 8
    plain = decode(pair)
    assert [run.new_tokens(0), run.new_tokens(1)] == [plain.new_tokens(0), plain.new_tokens(1)]


def test_rejection_with_a_draft_model_keeps_greedy_rows_as_they_are(pair):
    run = decode(pair, Speculative(DraftModel(pair[2], k=3), "rejection"), pair[3])
    assert run.new_tokens(1) == decode(pair).new_tokens(1)
    assert len(run.new_tokens(0)) == 30


def test_a_draft_model_that_does_not_fit_is_refused(pair):
    big, params, small, draft = pair
    with pytest.raises(ConfigError, match="extra="):
        start(big, params, PROMPTS, max_new=4, strategy=Speculative(DraftModel(small)))
    other = tiny_config("gpt2", vocab_size=big.vocab_size + 1)
    with pytest.raises(ConfigError, match="share one tokenizer"):
        start(big, params, PROMPTS, max_new=4, strategy=Speculative(DraftModel(other)), extra=draft)
    short = tiny_config("gpt2", vocab_size=big.vocab_size, max_positions=16)
    with pytest.raises(ConfigError, match="16 positions"):
        start(big, params, PROMPTS, max_new=9, strategy=Speculative(DraftModel(short)), extra=draft)


def test_a_draft_model_of_few_learned_positions_reads_a_padded_prompt():
    big = tiny_config("llama", max_positions=256)
    small = tiny_config("gpt2", vocab_size=big.vocab_size, max_positions=100)
    prompt = np.random.default_rng(2).integers(0, big.vocab_size, 70).tolist()
    strategy = Speculative(DraftModel(small, k=3))
    run = start(
        big, tiny_params(big), [prompt], max_new=12, strategy=strategy, extra=tiny_params(small)
    )
    assert all(np.isfinite(leaf).all() for leaf in (*run.state.aux.k, *run.state.aux.v))
    run.advance()
    plain = start(big, tiny_params(big), [prompt], max_new=12)
    plain.advance()
    assert run.new_tokens(0) == plain.new_tokens(0)
