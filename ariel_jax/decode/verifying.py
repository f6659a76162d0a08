"""Which drafts hold: the rules of speculative decoding over a chain or a tree of drafts.

References:
    Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", arXiv
    2211.17192: the rejection rule. Miao et al. 2024, "SpecInfer", arXiv 2305.09781: trees. Daliri
    et al. 2024, "Coupling without Communication and Drafter-Invariant Speculative Decoding", arXiv
    2408.07978: the coupled rule.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ariel_jax.decode.sampling import processed
from ariel_jax.decode.state import DecodeState
from ariel_jax.decode.strategy import sample, sampling_context
from ariel_jax.decode.tree import Tree
from ariel_jax.errors import ConfigError

# Folded into a position's key: independent of its Gumbel noise and of each other. From `_ACCEPT`
# on there is one for each node of a tree.
_RESIDUAL, _DRAFT, _ACCEPT = 2, 3, 16


class Draft(struct.PyTreeNode):
    """Guesses of the tokens after the pending one; draft i is node i + 1 of the proposer's tree."""

    tokens: jax.Array  # [B, k] int32
    valid: jax.Array  # [B, k] bool; a node behind an invalid one is never accepted
    logq: jax.Array | None = None  # [B, k, V] log-probabilities they were drawn from; None: certain


class Verdict(struct.PyTreeNode):
    """What a step found."""

    out: jax.Array  # [B, depth + 1] int32 tokens: those of the path that holds and one more
    n_held: jax.Array  # [B] int32 drafts that hold
    path: jax.Array  # [B, depth + 1] int32 nodes whose rows these tokens extend


def check_requests(verifier: str, state: DecodeState) -> None:
    """Checks that a verifier can serve the requests of a state.

    Raises:
        ConfigError: a request that samples, under the verifier `greedy`.
    """
    hot = np.flatnonzero(np.asarray(state.sampling.temperature) > 0).tolist()
    if verifier == "greedy" and hot:
        raise ConfigError(
            f"request(s) {hot} have a temperature above 0 and the verifier is 'greedy': set the "
            "temperature to 0, or verify with 'coupled' or 'rejection'."
        )


def coupled(
    state: DecodeState, logits: jax.Array, draft: Draft, tree: Tree, length: jax.Array
) -> Verdict:
    """Keeps the path whose every token is the one that plain decoding draws there.

    Args:
        state: before the step.
        logits: [B, S, V] of the nodes.
        draft: the nodes' tokens.
        tree: their shape.
        length: [B] int32 position of the pending token.
    """
    B, S, V = logits.shape
    nodes, position = by_node(state, draft, tree, length)
    drawn = sample(nodes, logits.reshape(B * S, V), position).reshape(B, S)
    return agreeing(state, drawn, draft, tree)


def agreeing(state: DecodeState, drawn: jax.Array, draft: Draft, tree: Tree) -> Verdict:
    """Keeps the path whose every token is the one drawn [B, S] at its parent; as in `coupled`."""
    holds = [jnp.ones_like(state.done)]
    for node in range(1, tree.size):
        parent = tree.parents[node]
        token = draft.tokens[:, node - 1]
        ok = holds[parent] & draft.valid[:, node - 1] & (token == drawn[:, parent])
        for other in tree.siblings(node):  # of two alike the first one counts
            ok = ok & ~holds[other]
        holds.append(ok)
    depth = jnp.where(jnp.stack(holds, axis=1), jnp.asarray(tree.depths)[None, :], -1)
    deepest = jnp.argmax(depth, axis=1)
    path = jnp.asarray(tree.paths)[deepest]
    out = jnp.take_along_axis(drawn, path, axis=1)
    return Verdict(out=out, n_held=jnp.max(depth, axis=1), path=path)


def rejection(
    state: DecodeState, logits: jax.Array, draft: Draft, tree: Tree, length: jax.Array
) -> Verdict:
    """Keeps drafts with the probability that leaves the law of the text as it is.

    Siblings are tried in order; each one that fails takes what it stood for out of the law: a
    sampled draft its whole law q, a certain one its own token. Arguments as in `coupled`.

    Raises:
        ConfigError: sampled drafts (with `logq`) in a tree that is no chain.
    """
    if draft.logq is not None and not tree.is_chain:
        raise ConfigError(
            "drafts in a tree must be certain (logq=None) for the rejection rule: siblings drawn "
            "from one law depend on each other. Draft a chain, or verify with 'coupled'."
        )
    B, S, V = logits.shape
    nodes, position = by_node(state, draft, tree, length)
    values = processed_logits(nodes, logits.reshape(B * S, V), position)
    laws = jax.nn.softmax(values, axis=-1).reshape(B, S, V)
    law = whole = laws[:, 0]
    at = jnp.zeros_like(length)
    for node in range(1, tree.size):
        here = (at == tree.parents[node]) & draft.valid[:, node - 1]
        token = draft.tokens[:, node - 1]
        of_token = lambda x, token=token: jnp.take_along_axis(x, token[:, None], axis=1)[:, 0]
        if draft.logq is None:
            q_token, rest = jnp.ones((), law.dtype), _without(law, token)
        else:
            q = jnp.exp(draft.logq[:, node - 1].astype(law.dtype))
            q_token, rest = of_token(q), jnp.maximum(law - q, 0)
        u = _uniform(state, length + int(tree.depths[node]), _ACCEPT + node, law.dtype)
        # Multiplied instead of divided: no 0 / 0, and a draft of probability 0 never holds.
        holds = here & (u * q_token < of_token(law))
        mass = jnp.sum(rest, axis=-1, keepdims=True)
        rest = jnp.where(
            mass > 1e-6, rest / jnp.maximum(mass, 1e-6), whole
        )  # rounding may empty it
        law = jnp.where(holds[:, None], laws[:, node], jnp.where(here[:, None], rest, law))
        whole = jnp.where(holds[:, None], laws[:, node], whole)
        at = jnp.where(holds, node, at)
    n_held = jnp.asarray(tree.depths)[at]
    path = jnp.asarray(tree.paths)[at]
    last = draw(state, jnp.log(law), length + 1 + n_held, _RESIDUAL)
    slot = jnp.arange(tree.depth + 1, dtype=jnp.int32)[None, :]
    following = jnp.roll(path, -1, axis=1)  # the node whose token stands at each place
    drafts = jnp.take_along_axis(draft.tokens, jnp.maximum(following - 1, 0), axis=1)
    out = jnp.where(slot < n_held[:, None], drafts, last[:, None])
    return Verdict(out=out, n_held=n_held, path=path)


def _without(law: jax.Array, token: jax.Array) -> jax.Array:
    ids = jnp.arange(law.shape[-1], dtype=token.dtype)[None, :]
    return jnp.where(ids == token[:, None], 0, law)


def by_node(
    state: DecodeState, draft: Draft, tree: Tree, length: jax.Array
) -> tuple[DecodeState, jax.Array]:
    """The batch with a request for each node, as sampling sees it: all nodes draw in one call.

    Args:
        state: before the step.
        draft: the nodes' tokens.
        tree: their shape, S nodes.
        length: [B] int32 position of the pending token.

    Returns:
        (state whose settings, keys and history are those of the B S nodes, each node's history with
        the drafts on its path; [B S] int32 the position that each draws).
    """
    B, S = state.tokens.shape[0], tree.size
    position = (length[:, None] + 1 + jnp.asarray(tree.depths)[None, :]).reshape(-1)
    settings = (state.sampling, state.keys, state.prompt_length)
    sampling, keys, prompt_length = jax.tree.map(lambda x: jnp.repeat(x, S, axis=0), settings)
    tokens = state.tokens
    if state.sampling.kind.penalises:  # nothing else looks at it
        lead = jnp.arange(B, dtype=jnp.int32)[:, None]
        histories = []
        for node in range(S):
            path = tree.paths[node, 1 : int(tree.depths[node]) + 1]
            at = length[:, None] + 1 + np.arange(len(path), dtype=np.int32)[None, :]
            histories.append(tokens.at[lead, at].set(draft.tokens[:, path - 1], mode="drop"))
        tokens = jnp.stack(histories, axis=1).reshape(B * S, -1)
    nodes = state.replace(tokens=tokens, sampling=sampling, keys=keys, prompt_length=prompt_length)
    return nodes, position


def processed_logits(state: DecodeState, logits: jax.Array, position: jax.Array) -> jax.Array:
    """Logits [B, V] whose softmax is what `sample` draws from at `position` [B].

    At temperature 0 all but the best are -inf.
    """
    values = processed(logits, sampling_context(state, position, logits.shape[-1]))
    is_greedy = (state.sampling.temperature == 0)[:, None]
    best = jnp.argmax(values, axis=-1)[:, None] == jnp.arange(values.shape[-1])[None, :]
    return jnp.where(is_greedy & ~best, -jnp.inf, values)


def _keys(state: DecodeState, position: jax.Array, purpose: int) -> jax.Array:
    fold = jax.vmap(jax.random.fold_in)
    return fold(fold(state.keys, position), jnp.full_like(position, purpose))


def _uniform(state: DecodeState, position: jax.Array, purpose: int, dtype: Any) -> jax.Array:
    """[B] uniform numbers in [0, 1) keyed by request, position and purpose."""
    keys = _keys(state, position, purpose)
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys).astype(dtype)


def draw_own(state: DecodeState, log_weights: jax.Array, position: jax.Array) -> jax.Array:
    """[B] int32 drafts drawn in proportion to exp(log_weights [B, V]), with noise of their own."""
    return draw(state, log_weights, position, _DRAFT)


def draw(
    state: DecodeState, log_weights: jax.Array, position: jax.Array, purpose: int
) -> jax.Array:
    """[B] int32 tokens drawn in proportion to exp(log_weights [B, V]), with noise of `purpose`."""
    V = log_weights.shape[-1]
    keys = _keys(state, position, purpose)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (V,), jnp.float32))(keys)
    return jnp.argmax(log_weights + noise.astype(log_weights.dtype), axis=-1).astype(jnp.int32)
