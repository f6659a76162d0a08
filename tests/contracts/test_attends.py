"""What every `attend` must hold; joining is one row of CACHES."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ariel_jax.layers.attention import (
    AttentionOptions,
    bidirectional,
    causal,
    merge_attention,
)
from ariel_jax.layers.kv_cache import KVCache, init_cache
from ariel_jax.pallas_kernels.decode_attention import decode_attention

B, T, N, K, H = 3, 12, 4, 2, 8
CACHES = {
    "dense": lambda capacity, dtype=jnp.float32: init_cache(1, B, K, capacity, H, dtype),
}
OPTIONS = {
    "plain": AttentionOptions(scale=0.3),
    "window": AttentionOptions(scale=0.3, window=5),
    "soft cap": AttentionOptions(scale=0.3, softcap=2.0),
}


@pytest.fixture(params=CACHES.values(), ids=CACHES.keys())
def make_cache(request):
    return request.param


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS.keys())
def options(request):
    return request.param


@pytest.fixture(scope="module")
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H))
    return tuple(jax.random.normal(k, s) * 2 for k, s in zip(keys, shapes, strict=True))


def positions(first: list[int], n: int) -> jax.Array:
    return jnp.asarray([[f + i for i in range(n)] for f in first], jnp.int32)


def by_hand(q, k, v, o: AttentionOptions) -> np.ndarray:
    """Causal attention as its definition reads, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(*q.shape[:3]):
        low = 0 if o.window is None else max(0, t - o.window + 1)
        s = k[b, low : t + 1, n // (q.shape[2] // k.shape[2])] @ q[b, t, n] * o.scale
        if o.softcap is not None:
            s = o.softcap * np.tanh(s / o.softcap)
        p = np.exp(s - s.max())
        out[b, t, n] = p @ v[b, low : t + 1, n // (q.shape[2] // k.shape[2])] / p.sum()
    return out


def test_causal_equals_the_definition(qkv, options):
    out, carry = causal(lambda layer: options)(0, *qkv, "kept")
    np.testing.assert_allclose(out, by_hand(*qkv, options), atol=2e-5)
    assert carry == "kept"


def test_bidirectional_equals_the_definition(qkv):
    q, k, v = (np.asarray(x, np.float64) for x in qkv)
    mask = np.random.default_rng(0).random((B, T)) < 0.6
    mask[0] = True
    wanted = np.zeros_like(q)
    for b, t, n in np.ndindex(*q.shape[:3]):
        here = mask[b], n // (N // K)
        s = k[b, here[0], here[1]] @ q[b, t, n] * 0.3
        p = np.exp(s - s.max())
        wanted[b, t, n] = p @ v[b, here[0], here[1]] / p.sum()
    out, carry = bidirectional(0.3, jnp.asarray(mask))(0, *qkv, "kept")
    np.testing.assert_allclose(out, wanted, atol=2e-5)
    assert carry == "kept"
    # Without a mask all positions exist, those behind a query too.
    out, _ = bidirectional(0.3)(0, *qkv, None)
    np.testing.assert_allclose(out[0], wanted[0], atol=2e-5)
    # A key that does not exist weighs exactly nothing, whatever lies there.
    hidden = jnp.asarray(~mask)[:, :, None, None]
    changed = [jnp.where(hidden, 1e4, x) for x in qkv[1:]]
    twice = [bidirectional(0.3, jnp.asarray(mask))(0, qkv[0], *kv, None)[0] for kv in (qkv[1:], changed)]  # fmt: skip
    np.testing.assert_array_equal(*twice)


@pytest.mark.parametrize("chunks", [[12], [5, 7], [4, 1, 1, 6]], ids=str)
def test_any_split_into_steps_equals_one_pass(make_cache, qkv, options, chunks):
    expected = by_hand(*qkv, options)
    cache, at, outs = make_cache(16), 0, []
    for i, n in enumerate(chunks):
        attend, carry = cache.attend(
            lambda layer: options, positions([at] * B, n), jnp.ones(B, bool), fresh=i == 0
        )
        out, carry = attend(0, *(x[:, at : at + n] for x in qkv), carry)
        cache = cache.commit(carry, jnp.full(B, n, jnp.int32))
        outs.append(out)
        at += n
    np.testing.assert_allclose(np.concatenate(outs, 1), expected, atol=2e-5)
    assert cache.length.tolist() == [T] * B
    assert cache.capacity_left().tolist() == [4] * B


def test_ragged_rows_and_inactive_rows(make_cache, qkv, options):
    """Rows at lengths 3, 6 and 9 take one step; the middle one is done and must not change."""
    lengths = [3, 6, 9]
    q, k, v = qkv
    cache = make_cache(16)
    attend, carry = cache.attend(
        lambda layer: options, positions([0] * B, T), jnp.ones(B, bool), fresh=True
    )
    _, carry = attend(0, q, k, v, carry)
    cache = cache.commit(carry, jnp.asarray(lengths, jnp.int32))
    before = jax.device_get(cache)
    active = jnp.asarray([True, False, True])
    attend, carry = cache.attend(lambda layer: options, positions(lengths, 1), active)
    step = [jnp.stack([x[b, n] for b, n in enumerate(lengths)])[:, None] for x in qkv]
    out, carry = attend(0, *step, carry)
    cache = cache.commit(carry, active.astype(jnp.int32))
    expected = by_hand(q, k, v, options)
    for b, n in enumerate(lengths):
        if active[b]:
            np.testing.assert_allclose(out[b, 0], expected[b, n], atol=2e-5)
    np.testing.assert_array_equal(np.asarray(cache.k[0])[1], before.k[0][1])
    assert cache.length.tolist() == [4, 6, 10]


def test_a_tree_sees_ancestors_and_its_path_is_kept(make_cache, qkv, options):
    """Six rows are known; nodes 1 and 2 follow the root, 3 follows 2, 4 follows 3."""
    q, k, v = qkv
    parents, path, n_known = (-1, 0, 0, 2, 3), [0, 2, 3, 4], 6
    depth = [0, 1, 1, 2, 3]
    cache = make_cache(16)
    attend, carry = cache.attend(
        lambda layer: options, positions([0] * B, n_known), jnp.ones(B, bool), fresh=True
    )
    _, carry = attend(0, q[:, :n_known], k[:, :n_known], v[:, :n_known], carry)
    cache = cache.commit(carry, jnp.full(B, n_known, jnp.int32))
    # The path's nodes are what the sequence goes on with, node 1 is something else.
    source = [6, 11, 7, 8, 9]
    nodes = [jnp.stack([x[:, s] for s in source], axis=1) for x in qkv]
    at = jnp.broadcast_to(n_known + jnp.asarray(depth, jnp.int32)[None], (B, 5))
    active = jnp.asarray([True, True, False])
    before = jax.device_get(cache)
    attend, carry = cache.attend(lambda layer: options, at, active, parents=parents)
    out, carry = attend(0, *nodes, carry)
    expected = by_hand(*qkv, options)
    for node in path:
        np.testing.assert_allclose(out[:2, node], expected[:2, n_known + depth[node]], atol=2e-5)
    alone = [jnp.concatenate([x[:, : n_known + 1], x[:, 11:]], axis=1) for x in qkv]
    np.testing.assert_allclose(out[:2, 1], by_hand(*alone, options)[:2, n_known + 1], atol=2e-5)
    kept = jnp.asarray([4, 2, 0], jnp.int32)
    cache = cache.commit(carry, kept, jnp.asarray([path] * B, jnp.int32))
    assert cache.length.tolist() == [10, 8, 6]
    for row, n in ((0, 4), (1, 2)):
        np.testing.assert_array_equal(
            cache.k[0][row, :, n_known : n_known + n], np.moveaxis(k[row, 6 : 6 + n], 0, 1)
        )
    np.testing.assert_array_equal(np.asarray(cache.v[0])[2], before.v[0][2])


def test_rollback_grow_fork_and_reset(make_cache, qkv, options):
    cache = make_cache(12)
    attend, carry = cache.attend(
        lambda layer: options, positions([0] * B, T), jnp.ones(B, bool), fresh=True
    )
    _, carry = attend(0, *qkv, carry)
    full = cache.commit(carry, jnp.full(B, T, jnp.int32))
    back = full.rollback(jnp.full(B, 6, jnp.int32))
    assert back.length.tolist() == [6] * B
    grown = back.grow(20)
    assert grown.capacity == 20
    np.testing.assert_array_equal(grown.k[0][:, :, :6], full.k[0][:, :, :6])
    attend, carry = grown.attend(lambda layer: options, positions([6] * B, 6), jnp.ones(B, bool))
    out, _ = attend(0, *(x[:, 6:] for x in qkv), carry)
    np.testing.assert_allclose(out, by_hand(*qkv, options)[:, 6:], atol=2e-5)
    forked = full.fork([2, 2])
    np.testing.assert_array_equal(forked.v[0][0], full.v[0][2])
    np.testing.assert_array_equal(forked.v[0][1], full.v[0][2])
    reset = full.reset_rows(jnp.asarray([False, True, False]))
    assert reset.length.tolist() == [T, 0, T]


def test_bytes_are_those_of_the_leaves(make_cache):
    assert make_cache(16).nbytes == 2 * B * K * 16 * H * 4
    assert make_cache(16, jnp.bfloat16).nbytes == 2 * B * K * 16 * H * 2


def test_merging_two_parts_equals_one_softmax(qkv):
    q, k, v = qkv
    kc, vc = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    q = q[:, -1:]
    full = {"scale": 0.3, "q_positions": jnp.full((B, 1), T, jnp.int32)}
    whole, lse = decode_attention(q, kc, vc, length=jnp.full(B, T, jnp.int32), **full)
    first = decode_attention(q, kc, vc, length=jnp.full(B, 5, jnp.int32), **full)
    rest = decode_attention(
        q, kc[:, :, 5:], vc[:, :, 5:], length=jnp.full(B, T - 5, jnp.int32), **full
    )
    out, merged = merge_attention(*first, *rest)
    np.testing.assert_allclose(out, whole, atol=1e-5)
    np.testing.assert_allclose(merged, lse, atol=1e-5)
    nothing = decode_attention(q, kc, vc, length=jnp.zeros(B, jnp.int32), **full)
    out, _ = merge_attention(whole, lse, *nothing)
    np.testing.assert_allclose(out, whole, atol=1e-6)


def test_the_cache_is_a_pytree_of_arrays_only():
    cache = init_cache(2, 1, 1, 4, 2, jnp.float32)
    leaves, treedef = jax.tree.flatten(cache)
    assert len(leaves) == 5
    assert isinstance(treedef.unflatten(leaves), KVCache)
