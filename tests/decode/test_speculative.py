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
    oracle,
    programs,
    start,
    verifying,
)
from ariel_jax.decode.sampling import make_rows
from ariel_jax.decode.speculative import lookup
from ariel_jax.decode.tree import Tree
from ariel_jax.decode.verifying import Draft
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


def slow_branches(text, k, longest, shortest, branches):
    """As many continuations as there are first tokens, the longest match and latest first."""
    n, found = len(text), []
    for m in range(min(longest, n), shortest - 1, -1):
        for end in range(n - 2, m - 2, -1):
            if text[end - m + 1 : end + 1] == text[n - m :]:
                period = n - 1 - end
                drafts = [text[end + 1 + j % period] for j in range(k)]
                if drafts[0] not in [other[0] for other in found]:
                    found.append(drafts)
    return found[:branches]


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


@given(st.lists(st.integers(0, 3), min_size=1, max_size=N_MAX - 4), st.integers(1, 2))
@settings(max_examples=100, deadline=None)
def test_branches_are_the_next_best_matches_with_other_first_tokens(text, shortest):
    tokens = np.zeros((1, N_MAX), np.int32)
    tokens[0, : len(text)] = text
    known = jnp.asarray([len(text)], jnp.int32)
    drafts, valid = lookup(
        jnp.asarray(tokens), known, k=3, longest=3, shortest=shortest, branches=3
    )
    want = slow_branches(text, 3, 3, shortest, 3)
    assert valid.reshape(3, 3).all(axis=1).tolist() == [i < len(want) for i in range(3)]
    assert drafts.reshape(3, 3)[: len(want)].tolist() == want


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


class Requests(types.SimpleNamespace):
    def replace(self, **changes):
        return Requests(**(vars(self) | changes))


def requests(seed, n=None):
    """Independent requests that sample at temperature 1."""
    n = n or N
    one = SamplingParams(temperature=1.0, seed=0)
    return Requests(
        sampling=jax.tree.map(lambda leaf: jnp.repeat(leaf, n, axis=0), make_rows([one], (7,))),
        keys=jax.random.split(jax.random.key(seed), n),
        prompt_length=jnp.ones(n, jnp.int32),
        done=jnp.zeros(n, bool),
        tokens=jnp.zeros((n, 4), jnp.int32),
    )


def verify(seed, *, certain=False, invalid=False, rule=verifying.rejection):
    """First tokens, and second tokens where the first draft held, of N independent rows."""
    rng = np.random.default_rng(seed)
    drafts = np.stack([rng.choice(5, N, p=q) for q in Q], axis=1).astype(np.int32)
    valid = np.ones((N, 2), bool)
    if invalid:
        valid = rng.random((N, 2)) < 0.6
    state, tree = requests(seed), Tree.chain(2)
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(P, jnp.float32))[None], (N, 3, 5))
    logq = None if certain else jnp.broadcast_to(jnp.log(jnp.asarray(Q, jnp.float32)), (N, 2, 5))
    draft = Draft(tokens=jnp.asarray(drafts), valid=jnp.asarray(valid), logq=logq)
    found = jax.jit(lambda d: rule(state, logits, d, tree, jnp.ones(N, jnp.int32)))(draft)
    out, held = np.asarray(found.out), np.asarray(found.n_held)
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
    # And so the tokens of a step are one more than the products of the overlaps.
    both = overlap * np.minimum(P[1], Q[1]).sum()
    assert abs((1 + held).mean() - (1 + overlap + both)) < 5.3 * np.std(held) / np.sqrt(N)


def test_a_planted_fault_in_the_rule_is_noticed():
    def sloppy(state, logits, draft, tree, length):
        """Draws from the whole law instead of the residual after a rejection."""
        found = verifying.rejection(state, logits, draft, tree, length)
        again = verifying.draw(state, logits[:, 0], length + 100, 2)
        first = jnp.where(found.n_held == 0, again, found.out[:, 0])
        return found.replace(out=found.out.at[:, 0].set(first))

    first, *_ = verify(1, rule=sloppy)
    assert chi_square(first, P[0]) > LIMIT


def first_token_law(monkeypatch, tree, drafts, weights, logq=None):
    """The law of a step's first token, every way in which its uniform draws can fall counted once.

    Each draw runs over the middles of 20 equal parts of [0, 1), so all decisions at multiples of
    1/20 are counted exactly; a draw from what is left of the law is replaced by that law itself.
    """
    k = tree.size - 1
    grid = np.stack(np.meshgrid(*[(np.arange(20) + 0.5) / 20] * k, indexing="ij"), -1).reshape(
        -1, k
    )
    left = []
    monkeypatch.setattr(
        verifying,
        "_uniform",
        lambda state, position, purpose, dtype: jnp.asarray(
            grid[:, purpose - verifying._ACCEPT - 1], dtype
        ),
    )

    def kept(state, log_weights, position, purpose):
        left.append(np.exp(np.asarray(log_weights, np.float64)))
        return jnp.zeros(len(grid), jnp.int32)

    monkeypatch.setattr(verifying, "draw", kept)
    n, found = len(grid), np.zeros(4)
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(LAW, jnp.float32)), (n, tree.size, 4))
    for tokens, weight in zip(drafts, weights, strict=True):
        draft = Draft(
            tokens=jnp.broadcast_to(jnp.asarray(tokens, jnp.int32), (n, k)),
            valid=jnp.ones((n, k), bool),
            logq=None if logq is None else jnp.broadcast_to(logq, (n, k, 4)),
        )
        made = verifying.rejection(requests(0, n), logits, draft, tree, jnp.ones(n, jnp.int32))
        held, out, law = np.asarray(made.n_held), np.asarray(made.out), left.pop()
        law = law / law.sum(1, keepdims=True)
        first = np.where((held >= 1)[:, None], np.eye(4)[out[:, 0]], law)
        found += weight * first.mean(0)
    return found


LAW = np.array([0.5, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("form", ["certain", "sampled", "siblings", "equal siblings", "impossible"])
def test_every_rule_leaves_the_law_as_it_is_exactly(monkeypatch, form):
    chain, fork = Tree.chain(1), Tree((-1, 0, 0))
    q = np.array([0.5, 0.25, 0.25, 0.0])
    tree, drafts, weights, logq = {
        "certain": (chain, [[1]], [1.0], None),
        "sampled": (chain, [[0], [1], [2]], q[:3], jnp.log(jnp.asarray(q, jnp.float32))),
        "siblings": (fork, [[0, 1]], [1.0], None),
        "equal siblings": (fork, [[0, 0]], [1.0], None),
        "impossible": (chain, [[3]], [1.0], jnp.log(jnp.asarray([0, 0, 0, 1.0], jnp.float32))),
    }[form]
    found = first_token_law(monkeypatch, tree, drafts, weights, logq)
    np.testing.assert_allclose(found, LAW, atol=1e-6)


def test_the_count_notices_a_rule_that_is_a_little_off(monkeypatch):
    monkeypatch.setattr(verifying, "_without", lambda law, token: law)  # keeps what has failed
    found = first_token_law(monkeypatch, Tree.chain(1), [[1]], [1.0])
    assert np.abs(found - LAW).max() > 0.01


TREE = Tree((-1, 0, 0, 1, 1, 0))
NODES = (2, 3, 4, 0, 2)  # the last one is the same token as the first: it can never hold
LAWS = np.array(
    [
        [0.3, 0.1, 0.35, 0.15, 0.1],
        [0.3, 0.05, 0.05, 0.3, 0.3],
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.9, 0.1, 0.0, 0.0, 0.0],
        [0.1, 0.2, 0.3, 0.2, 0.2],
        [1.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


def verify_tree(seed, rule=verifying.rejection, **changes):
    state = requests(seed)
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(LAWS, jnp.float32))[None], (N, 6, 5))
    tokens = jnp.broadcast_to(jnp.asarray(NODES, jnp.int32)[None], (N, 5))
    draft = Draft(tokens=tokens, valid=jnp.ones((N, 5), bool), **changes)
    return jax.jit(lambda d: rule(state, logits, d, TREE, jnp.ones(N, jnp.int32)))(draft)


@pytest.mark.parametrize("rule", [verifying.rejection, verifying.coupled])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_tree_leaves_the_joint_law_as_it_is(seed, rule):
    """Of the first token; of the second behind each child; of the third behind a grandchild."""
    found = jax.device_get(verify_tree(seed, rule))
    out, held, path = found.out, found.n_held, found.path
    assert chi_square(out[:, 0], LAWS[0]) < LIMIT
    for node, token in ((1, 2), (2, 3)):
        here = (held >= 1) & (path[:, 1] == node)
        assert (out[here, 0] == token).all()
        assert here.sum() == (out[:, 0] == token).sum(), "a draft that is right must hold"
        assert chi_square(out[here, 1], LAWS[node]) < LIMIT
    for node, token in ((3, 4), (4, 0)):
        here = (held == 2) & (path[:, 2] == node)
        assert (out[here, 1] == token).all()
        assert chi_square(out[here, 2], LAWS[node]) < LIMIT
    assert not (path == 5).any(), "of two equal siblings the first one counts"


def test_the_two_rules_accept_certain_drafts_equally_often():
    rates = [
        np.mean(np.asarray(verify_tree(3, rule).n_held) >= 1)
        for rule in (verifying.rejection, verifying.coupled)
    ]
    wanted = LAWS[0][2] + LAWS[0][3]
    assert np.abs(np.array(rates) - wanted).max() < 5.3 * np.sqrt(wanted * (1 - wanted) / N)


def test_sampled_siblings_are_refused_by_the_rejection_rule():
    with pytest.raises(ConfigError, match="certain"):
        verify_tree(1, logq=jnp.zeros((N, 5, 5)))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_tree_knows_its_paths(choices, seed):
    parents = (-1, *(min(c, i) for i, c in enumerate(choices)))
    tree = Tree(parents)
    for node in range(tree.size):
        path, at = [node], node
        while parents[at] >= 0:
            at = parents[at]
            path.insert(0, at)
        assert tree.depths[node] == len(path) - 1
        assert tree.paths[node, : len(path)].tolist() == path
        assert set(tree.paths[node, len(path) :].tolist()) <= {node}
        assert set(tree.siblings(node)) == {
            i for i in range(1, node) if parents[i] == parents[node]
        }
    assert tree.depth == max(tree.depths)
    assert tree.is_chain == (parents == tuple(range(-1, tree.size - 1)))


def test_shapes_of_drafts():
    assert Tree.chain(2).parents == (-1, 0, 1)
    assert Tree.branches(2, 2).parents == (-1, 0, 1, 0, 3)
    assert Tree.comb(2, 3).parents == (-1, 0, 0, 1, 1, 3, 3)
    for parents in ((), (0,), (-1, 1), (-1, 2, 0), (-1, -1), tuple(range(-1, 32))):
        with pytest.raises(ConfigError, match="tree"):
            Tree(parents)


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
    with pytest.raises(ConfigError, match="32"):
        NGram(k=16, branches=2)
    with pytest.raises(ConfigError, match="alternatives=-1"):
        DraftModel(tiny_config("gpt2"), alternatives=-1)


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


@pytest.fixture(scope="module")
def blurred(pair):
    """The bigger model with weights that are a little off: often its second choice is right."""
    other = tiny_params(pair[0], seed=5)
    return jax.tree.map(lambda ours, noise: ours + 0.15 * noise, pair[1], other)


def test_alternatives_hold_where_the_first_choice_does_not(pair, blurred):
    plain = decode(pair)
    accepted = {}
    for alternatives in (0, 3):
        proposer = DraftModel(pair[0], k=3, alternatives=alternatives)
        run = decode(pair, Speculative(proposer), blurred, capacity=Arithmetic(16, 16))
        assert [run.new_tokens(0), run.new_tokens(1)] == [plain.new_tokens(0), plain.new_tokens(1)]
        accepted[alternatives] = run.report.accepted
    assert accepted[3] > accepted[0] > 0


def test_the_cache_of_a_draft_model_holds_what_it_would_have_read(pair, blurred):
    """Whatever was accepted, alternatives included, all but the last known row."""
    proposer = DraftModel(pair[0], k=3, alternatives=3)
    run = start(
        *pair[:2],
        PROMPTS,
        max_new=30,
        strategy=Speculative(proposer),
        extra=blurred,
        sampling=MIXED,
    )
    run.advance(5)
    assert run.report.accepted > 0
    texts = [p + run.new_tokens(i) for i, p in enumerate(PROMPTS)]
    fresh = start(pair[0], blurred, texts, max_new=1)
    for ours, whole in zip(
        (*run.state.aux.k, *run.state.aux.v),
        (*fresh.state.cache.k, *fresh.state.cache.v),
        strict=True,
    ):
        for row in range(2):
            known = int(run.length[row]) - 1
            np.testing.assert_allclose(ours[row, :, :known], whole[row, :, :known], atol=2e-4)


def test_the_greedy_verifier_refuses_requests_that_sample(pair):
    with pytest.raises(ConfigError, match=r"\[0\].*temperature"):
        decode(pair, Speculative(NGram(), "greedy"))
    run = start(*pair[:2], PROMPTS, max_new=20, strategy=Speculative(NGram(k=2), "greedy"))
    run.advance()
    plain = start(*pair[:2], PROMPTS, max_new=20)
    plain.advance()
    assert [run.new_tokens(0), run.new_tokens(1)] == [plain.new_tokens(0), plain.new_tokens(1)]


@pytest.mark.parametrize(
    ("alternatives", "settings"),
    [
        (0, {"top_p": 0.9}),
        (1, {"min_p": 0.05, "repetition_penalty": 1.3, "min_new": 3}),
    ],
    ids=["chain, top-p", "tree, min-p, penalty and minimum length"],
)
def test_rejection_with_a_draft_model_keeps_the_joint_law(alternatives, settings):
    """Of the three tokens after the prompt, from the whole program, against every possible triple."""
    cfg = tiny_config("llama", vocab_size=5, max_positions=32)
    params = tiny_params(cfg)
    draft = jax.tree.map(lambda a, b: a + 0.3 * b, params, tiny_params(cfg, seed=3))
    one, prompt, n_rows = SamplingParams(temperature=1.5, **settings), [1, 2, 3], 3000
    strategy = Speculative(DraftModel(cfg, k=2, alternatives=alternatives), "rejection")
    run = start(
        cfg,
        params,
        [prompt] * n_rows,
        max_new=3,
        strategy=strategy,
        extra=draft,
        sampling=one,
        eos=(4,) if one.min_new else (),
    )
    run.advance()
    assert run.report.accepted > 0.1 * n_rows
    assert run.report.accepted < run.report.proposed
    seen = np.zeros((5, 5, 5))
    for row in range(n_rows):
        seen[tuple(run.new_tokens(row))] += 1

    def law(text):
        tokens = jnp.asarray([text + [0] * (8 - len(text))], jnp.int32)
        out = programs.forward(cfg, params, tokens, jnp.arange(8, dtype=jnp.int32)[None])
        eos = (4,) if one.min_new else ()
        x = oracle.process_logits(np.asarray(out[0, len(text) - 1]), text, 0, one, eos)
        weights = np.exp(x - x.max())
        return weights / weights.sum()

    want = np.zeros((5, 5, 5))
    first = law(prompt)
    for a in np.flatnonzero(first):
        second = law([*prompt, int(a)])
        for b in np.flatnonzero(second):
            want[a, b] = first[a] * second[b] * law([*prompt, int(a), int(b)]) * n_rows
    assert seen[want == 0].sum() == 0
    likely = want >= 5
    rest = np.array([want[~likely].sum()]), np.array([seen[~likely].sum()])
    want, seen = np.append(want[likely], rest[0]), np.append(seen[likely], rest[1])
    want, seen = want[want > 0], seen[want > 0]
    degrees = len(want) - 1
    assert degrees >= 6
    # Wilson and Hilferty: a sample of the right law is above this once in 10 million.
    limit = degrees * (1 - 2 / (9 * degrees) + 5.2 * np.sqrt(2 / (9 * degrees))) ** 3
    assert ((seen - want) ** 2 / want).sum() < limit


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
