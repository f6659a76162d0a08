"""The parts of a round: hidden rows, shadow tokens, the rejection rule and its planted fault."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.algorithms import del_exit
from ariel_jax.algorithms.del_exit import oracle, phases, rounds, shadow
from ariel_jax.algorithms.del_exit.controller import Plan
from ariel_jax.decode import Arithmetic, SamplingParams, start
from ariel_jax.decode.oracle import process_logits
from ariel_jax.decode.sampling import gumbel_noise
from ariel_jax.errors import CapacityError, ConfigError
from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from ariel_jax.testing import tiny_config, tiny_params

from .conftest import DRAFTS, EXITS, Small, agreeing

PROMPTS = [[1, 2, 3, 4, 5], [7, 8]]


def test_hidden_rows_are_those_of_a_full_forward_for_every_exit_and_length(small):
    """And the exit's shadow tokens are the drafts, as sure as they were."""
    with jax.enable_x64(True):
        params = small.params(1)
        strategy = del_exit.SelfSpeculative(small.how)
        state = start(small.cfg, params, PROMPTS, max_new=20, strategy=strategy).state
        tuning = del_exit.tuning(small.how, 3)

        @jax.jit
        def parts(params, state, exit, limit):
            job = rounds.Job(small.cfg, params, small.how, tuning, "coupled")
            stop = jnp.zeros(2, jnp.float32)
            state, made = rounds.draft(job, state, exit, limit, stop)
            asking = dataclasses.replace(job, verifier="rejection")  # for all logits
            _, whole, _ = rounds.verify(asking, state, made, exit)
            state, said, hidden = rounds.verify(job, state, made, exit)
            token, sure = shadow.likeliest(small.cfg, params, hidden)
            return state.tokens, made, (said, whole.logits), hidden, token, sure

        @jax.jit
        def whole(params, tokens):
            positions = jnp.broadcast_to(jnp.arange(16, dtype=jnp.int32)[None], (2, 16))
            x = decoder.embed(small.cfg, params, tokens, positions)
            kept = []
            for layer in range(3):
                attend = causal(small.cfg.attention)
                x, _ = decoder.trunk(
                    small.cfg, params, x, positions, attend, None, first=layer, last=layer + 1
                )
                kept.append(x)
            return jnp.stack(kept), decoder.unembed(small.cfg, params, x)

        for exit in range(len(EXITS)):
            for n in range(1, DRAFTS + 1):
                limit = jnp.asarray([n, max(n - 1, 0)], jnp.int32)
                tokens, made, (said, logits), hidden, token, sure = parts(
                    params, state, jnp.int32(exit), limit
                )
                assert int(made.n_rows) == n + 1
                assert made.draft.valid.sum(1).tolist() == limit.tolist()
                full, full_logits = whole(params, tokens[:, :16])
                for row, prompt in enumerate(PROMPTS):
                    here = slice(len(prompt), len(prompt) + int(limit[row]) + 1)
                    rows = int(limit[row]) + 1
                    for i, layer in enumerate(EXITS):
                        np.testing.assert_allclose(
                            hidden[i, row, :rows], full[layer - 1, row, here], atol=1e-12
                        )
                    np.testing.assert_allclose(
                        logits[row, :rows], full_logits[row, here], atol=1e-12
                    )
                    assert said.token[row, :rows].tolist() == logits[row, :rows].argmax(-1).tolist()
                    np.testing.assert_array_equal(said.logits[row, :, 0], logits[row].max(-1))
                    drafts = made.draft.tokens[row, : rows - 1]
                    assert token[exit, row, : rows - 1].tolist() == drafts.tolist()
                    at_exit = decoder.unembed(small.cfg, params, full[EXITS[exit] - 1, row, here])
                    np.testing.assert_allclose(
                        sure[exit, row, :rows], jax.nn.softmax(at_exit).max(-1), atol=1e-6
                    )


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("V", [7, 131])
def test_the_likeliest_token_in_pieces_is_that_of_all_logits(V, softcap):
    """Behind the model's own norm and soft cap; of equal logits the first one counts."""
    cfg = tiny_config("llama", vocab_size=V, final_softcap=softcap)
    params = tiny_params(cfg)
    rng = np.random.default_rng(V)
    w = rng.standard_normal((V, cfg.d_model)).astype(np.float32)
    w[1] *= 2
    w[V // 2] = w[1]
    params = params.replace(embed=jnp.asarray(w), unembed=None)
    hidden = rng.standard_normal((3, 2, cfg.d_model)).astype(np.float32)
    hidden[0, 0] = w[1] / params.final_norm.scale
    find = jax.jit(lambda p, h: (shadow.likeliest(cfg, p, h), decoder.before_head(cfg, p, h)))
    (token, sure), read = find(params, jnp.asarray(hidden))
    index, logit, total = oracle.vocab_top1(read, w, softcap=softcap)
    assert token.tolist() == index.tolist()
    np.testing.assert_allclose(sure, np.exp(logit - total), rtol=1e-5)
    assert int(token[0, 0]) == 1
    assert token.dtype == jnp.int32


def test_shadow_tokens_never_hold_all_logits_of_all_exits():
    """In the compiled program no array has the size of [exits, rows, vocabulary]."""
    K, B, W, V = 4, 1, 8, 4096
    cfg = tiny_config("llama", vocab_size=V, d_model=16, n_layers=5)
    params = tiny_params(cfg)
    hidden = jnp.zeros((K, B, W, 16), jnp.float32)
    compiled = jax.jit(lambda p, h: shadow.likeliest(cfg, p, h)).lower(params, hidden).compile()
    whole = K * B * W * V * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole / 2
    logits = jax.jit(lambda p, h: decoder.unembed(cfg, p, h)).lower(params, hidden).compile()
    assert logits.memory_analysis().output_size_in_bytes >= whole, "the check can fail"


N = 3000


@pytest.fixture(scope="module")
def five():
    """A model of five tokens, its sampling, and the exact law of three tokens after a prompt."""
    cfg = tiny_config("llama", vocab_size=5, n_layers=3, d_model=16, max_positions=32)
    params = agreeing(tiny_params(cfg, seed=2), 0.7)
    one, prompt = SamplingParams(temperature=1.3, min_p=0.02), [1, 2, 3]
    texts = [[*prompt, *more] for more in _all_pairs()]
    tokens = np.zeros((len(texts), 8), np.int32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
    positions = jnp.broadcast_to(jnp.arange(8, dtype=jnp.int32)[None], tokens.shape)
    attend = causal(cfg.attention)
    run = jax.jit(lambda t: decoder.apply(cfg, params, t, positions, attend, None)[0])
    logits = np.asarray(run(jnp.asarray(tokens)))
    laws = {}
    for row, text in enumerate(texts):
        x = process_logits(logits[row, len(text) - 1], text, 0, one, ())
        laws[tuple(text[3:])] = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    want = np.zeros((5, 5, 5))
    for a in range(5):
        for b in range(5):
            want[a, b] = laws[()][a] * laws[a,][b] * laws[a, b]
    return Small(cfg, None), params, one, prompt, want * N


def _all_pairs():
    return [[], *([a] for a in range(5)), *([a, b] for a in range(5) for b in range(5))]


def drawn(five, seed, how, tuning=None):
    """How often each triple of tokens came after the prompt."""
    small, params, one, prompt, _ = five
    run = start(
        small.cfg,
        params,
        [prompt] * N,
        max_new=3,
        strategy=del_exit.SelfSpeculative(how, "rejection"),
        extra=tuning,
        sampling=one,
        key=jax.random.key(seed),
    )
    run.advance()
    assert 0.1 * N < run.report.accepted < run.report.proposed
    seen = np.zeros((5, 5, 5))
    for row in range(N):
        seen[tuple(run.new_tokens(row))] += 1
    return seen


def chi_square(five, seen):
    """Of drawn triples, and the limit that a right sample passes once in 10^7."""
    want = five[-1] * seen.sum() / N
    assert seen[want == 0].sum() == 0
    likely = want >= 5
    seen, want = (
        np.append(seen[likely], seen[~likely].sum()),
        np.append(want[likely], want[~likely].sum()),
    )
    seen, want = seen[want > 0], want[want > 0]
    degrees = len(want) - 1
    assert degrees >= 8
    # Wilson and Hilferty.
    limit = degrees * (1 - 2 / (9 * degrees) + 5.2 * np.sqrt(2 / (9 * degrees))) ** 3
    return ((seen - want) ** 2 / want).sum(), limit


CONFIDENT = del_exit.Config(exits=EXITS, max_draft=2, exit_rule="given", length_rule="draft_verify")


def confident():
    return del_exit.tuning(CONFIDENT, 3, exit=2, threshold=0.6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rejection_keeps_the_law_with_drafts_that_stop_at_a_threshold(five, seed):
    found, limit = chi_square(five, drawn(five, seed, CONFIDENT, confident()))
    assert found < limit


@pytest.mark.slow
def test_rejection_keeps_the_law_of_60_000_texts(five):
    seen = sum(drawn(five, seed, CONFIDENT, confident()) for seed in range(10, 30))
    assert seen.sum() == 60_000
    found, limit = chi_square(five, seen)
    assert found < limit


def test_rejection_keeps_the_law_where_a_score_chooses_the_exit(five):
    how = del_exit.Config(exits=EXITS, max_draft=2, allow_zero_draft=False)
    found, limit = chi_square(five, drawn(five, 4, how))
    assert found < limit


def test_a_draft_dropped_for_its_own_probability_is_noticed(five, monkeypatch):
    """What stops a draft may look at kept tokens only: the planted fault drops an unlikely one."""
    drafted = rounds.draft

    def dropping(job, state, exit, limit, stop):
        state, made = drafted(job, state, exit, limit, stop)
        logq = jnp.take_along_axis(made.draft.logq, made.draft.tokens[:, :, None], axis=2)[..., 0]
        sure = made.draft.valid & (jnp.exp(logq) > 0.3)
        return state, made.replace(draft=made.draft.replace(valid=sure))

    monkeypatch.setattr(rounds, "draft", dropping)
    small, *rest = five
    other = dataclasses.replace(small, cfg=small.cfg.replace(norm_eps=2e-6))  # compiled anew
    found, limit = chi_square(five, drawn((other, *rest), 1, CONFIDENT, confident()))
    assert found > limit


def test_what_does_not_fit_is_refused(small):
    cfg, params = small.cfg, tiny_params(small.cfg)

    def begin(how=small.how, verifier="coupled", cfg=cfg, **options):
        strategy = del_exit.SelfSpeculative(how, verifier)
        return start(cfg, params, [[1, 2]], max_new=4, strategy=strategy, **options)

    with pytest.raises(ConfigError, match="3 layers"):
        begin(del_exit.Config(exits=(1, 3)))
    with pytest.raises(ConfigError, match="tuning"):
        begin(extra=params)
    with pytest.raises(ConfigError, match="7 drafts"):
        begin(extra=del_exit.tuning(del_exit.Config(exits=EXITS), 3))
    with pytest.raises(ConfigError, match="verifier='hope'"):
        begin(verifier="hope")
    with pytest.raises(ConfigError, match=r"\[0\].*temperature"):
        begin(verifier="greedy", sampling=SamplingParams(temperature=1.0))
    with pytest.raises(ConfigError, match="norm before its head"):
        begin(cfg=cfg.replace(final_norm=False))


class NoSpareRows:
    """A policy that leaves room for plain decoding only."""

    def initial(self, prompt_len, rows, limit):
        return prompt_len + 1

    def next(self, capacity, need, limit):
        return capacity + 1


def test_more_drafts_than_spare_rows_are_refused(small):
    cfg, params, strategy = small.cfg, tiny_params(small.cfg), del_exit.SelfSpeculative(small.how)
    run = start(cfg, params, [[1, 2]], max_new=9, strategy=strategy, capacity=NoSpareRows())
    with pytest.raises(CapacityError, match="chose a capacity of 4 rows, but the next step needs"):
        run.advance()
    with pytest.raises(CapacityError, match="does not grow between phases"):
        phases.by_phases(
            cfg, params, [[1, 2]], strategy=strategy, max_new=30, capacity=Arithmetic(8, 8)
        )


def test_the_rejection_rule_asks_for_the_law_of_the_drafts(small):
    cfg, params = small.cfg, tiny_params(small.cfg)
    strategy = del_exit.SelfSpeculative(small.how, "rejection")
    state = start(cfg, params, [[1, 2]], max_new=9, strategy=strategy).state
    job, exit = strategy.job(cfg, params, None), jnp.int32(0)
    state, made = rounds.draft(job, state, exit, rounds.draft_limit(state), jnp.zeros(1))
    state, said, _ = rounds.verify(job, state, made, exit)
    certain = made.replace(draft=made.draft.replace(logq=None))
    with pytest.raises(ConfigError, match="law it was drawn from"):
        rounds.judge(job, state, certain, said)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_look_back_counts_what_the_exits_say_of_the_text(small, sampled):
    """Rounds without drafts, against a full forward over the text; only what was plain counts."""
    params = small.params(3)
    with jax.enable_x64(True):
        sampling = [SamplingParams(temperature=1.0 * sampled, seed=i) for i in range(2)]
        how = dataclasses.replace(small.how, n_prompt=1)
        costs = del_exit.layer_costs(how, 3)
        dear = del_exit.tuning(how, 3, costs=costs.replace(verify=costs.verify * 99), omega=1e-6)
        options = {"strategy": del_exit.SelfSpeculative(how), "extra": dear, "sampling": sampling}
        run = start(small.cfg, params, PROMPTS, max_new=30, **options)
        run.advance(8)  # the first look
        assert run.report.proposed == 0
        counts = np.asarray(run.state.aux.control.seen.counts)
        for row, prompt in enumerate(PROMPTS):
            text = prompt + run.new_tokens(row)
            tokens = jnp.asarray([text], jnp.int32)
            positions = jnp.arange(len(text), dtype=jnp.int32)[None]
            x = decoder.embed(small.cfg, params, tokens, positions)
            for i, layer in enumerate(EXITS):
                attend = causal(small.cfg.attention)
                x, _ = decoder.trunk(
                    small.cfg, params, x, positions, attend, None, first=layer - 1, last=layer
                )
                logits = decoder.unembed(small.cfg, params, x)[0]
                last = np.arange(len(text) - 5, len(text) - 1)  # as many rows as a round has
                if sampled:
                    keys = jnp.stack([jax.random.key(row)] * 4)
                    at = jnp.asarray(last + 1, jnp.int32)
                    logits = logits.at[last].add(gumbel_noise(keys, at, 11).astype(logits.dtype))
                drawn = np.asarray(jnp.argmax(logits[last], axis=-1))
                hits = (drawn == np.asarray(text)[last + 1]).sum()
                np.testing.assert_allclose(counts[row, i], [hits, 4 - hits], atol=1e-4)


def test_a_forgotten_request_leaves_the_others_as_they_are(small):
    strategy = del_exit.SelfSpeculative(small.how)
    params = tiny_params(small.cfg)
    aux = start(small.cfg, params, PROMPTS, max_new=4, strategy=strategy).state.aux
    assert isinstance(aux.plan, Plan)
    cleared = strategy.reset_rows(aux, jnp.asarray([True, False]))
    assert float(cleared.control.seen.counts[0].sum()) == 0
    np.testing.assert_array_equal(cleared.control.seen.counts[1], aux.control.seen.counts[1])
    assert strategy.grow(aux, 99) is aux
