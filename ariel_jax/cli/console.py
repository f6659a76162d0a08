"""What commands share: what they say beside their result, and where they keep measurements."""

import sys
import warnings

from ariel_jax import backend, measure
from ariel_jax.errors import StorageError
from ariel_jax.pallas_kernels import native


def say(text: str) -> None:
    """Prints a line on stderr, at once: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def profile_store() -> measure.ProfileStore | None:
    """Where measurements are kept between runs; None, with a warning, where that cannot be."""
    try:
        return measure.ProfileStore(backend.cache_directory() / "profiles.json")
    except StorageError as error:
        warnings.warn(f"measurements are not kept: {error}", stacklevel=2)
        return None


def say_if_kernels_are_stale() -> None:
    """Says why native kernels that somebody built are not used; silent where there are none."""
    reason = native.why_not() if backend.platform() == "cpu" else None
    if reason not in (None, native.NOT_BUILT):
        say(f"native kernels are not used, decoding is slower: {reason}")
