"""The bits of `jax.random` for threefry keys, in fewer and shorter programs.

jax computes threefry on a CPU in a loop of five turns, which compiles sooner; of a hundred words each turn is
sixteen small launches, more than the words themselves. Keys of another kind are left to jax.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def fold_in(key: jax.Array, data: jax.Array) -> jax.Array:
    """`jax.random.fold_in` of a typed key [] and a whole number []."""
    if not _is_threefry(key):
        return jax.random.fold_in(key, data)
    number = jnp.asarray(data).astype(jnp.uint32)
    pair = threefry(jax.random.key_data(key), jnp.zeros_like(number), number)
    return jax.random.wrap_key_data(jnp.stack(pair), impl="threefry2x32")


def words(key: jax.Array, n: int, into: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """[n] of two words each, the columns of `jax.random.bits(key, (2, n))` under `jax_threefry_partitionable`.

    Args:
        key: [] typed.
        n: how many.
        into: what is made of first and second words, uint32 of one shape, element by element.
    """
    if not _is_threefry(key):
        rows = jax.random.bits(key, (2, n), jnp.uint32)
        return into(rows[0], rows[1])
    data, size = jax.random.key_data(key), -(-n // 2)

    def word(number: jax.Array) -> jax.Array:
        # Numbers of bits are 64 wide; their upper halves are 0 for as many as there are here.
        a, b = threefry(data, jnp.zeros_like(number), number)
        return a ^ b

    def half(first: jax.Array) -> jax.Array:
        number = first + jnp.arange(size, dtype=jnp.uint32)
        return into(word(number), word(number + np.uint32(n)))

    # A loop of two turns, so that XLA:CPU does not put the words and all that is made of them into one
    # kernel, which takes several times as long as its parts. The last of an odd number is computed for nothing.
    return jax.lax.map(half, np.array([0, size], np.uint32)).reshape(-1)[:n]


def threefry(key: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 in 20 rounds of uint32 arrays a and b of one shape, under a key [2].

    References:
        Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
    """
    parts = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    a, b = a + parts[0], b + parts[1]
    for turn in range(5):
        for rotation in _ROTATIONS[turn % 2]:
            a = a + b
            b = (b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))
            b = a ^ b
        a, b = a + parts[(turn + 1) % 3], b + parts[(turn + 2) % 3] + np.uint32(turn + 1)
    return a, b


def _is_threefry(key: jax.Array) -> bool:
    return str(jax.random.key_impl(key)) == "threefry2x32"
