"""What the machine reaches with nothing else to do: memory bandwidth and matrix products."""

import dataclasses
import os
import statistics
import time
import warnings
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from ariel_jax import backend
from ariel_jax.errors import IntegrityError, StorageError
from ariel_jax.measure import programs
from ariel_jax.measure.machine import fingerprint
from ariel_jax.measure.store import ProfileStore
from ariel_jax.measure.timing import timed

_N_RUNS = 7


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much work one measurement does."""

    n_bytes: int  # of the array that is read or copied; well above every cache
    n_product: int  # side of the square matrices


_SIZES = {
    "cpu": Sizes(n_bytes=256 << 20, n_product=1024),
    "gpu": Sizes(n_bytes=2 << 30, n_product=8192),
    "tpu": Sizes(n_bytes=1 << 30, n_product=8192),
}


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Sustained rates of one device: the median of several runs of each measurement.

    The median and not the best run, because what is compared with them is a median too; on a
    shared machine single runs are up to 1.5 times faster. Other work on the machine lowers them:
    `load` says how much there was.
    """

    read_bytes_per_s: float
    copy_bytes_per_s: float  # counts the bytes read and the bytes written
    product_float32_flops_per_s: float  # at jax's default precision
    product_bfloat16_flops_per_s: float
    measured_at: float  # Unix time, seconds
    load: float  # processes that wanted a processor in the minute before (load average)


def measure(sizes: Sizes) -> Ceilings:
    """Returns the ceilings of the device that new arrays go to, measured now.

    Args:
        sizes: how much work to do.
    """
    load = os.getloadavg()[0]
    rows = jnp.ones((sizes.n_bytes // (4 * 4096), 4096), jnp.float32)
    read_s = min(
        timed(programs.read_by_sum, rows, n_runs=_N_RUNS).median_s,
        timed(programs.read_by_product, rows, rows[0], n_runs=_N_RUNS).median_s,
    )
    into, times = jnp.zeros_like(rows), []
    for _ in range(1 + _N_RUNS):
        begin = time.perf_counter()
        into = jax.block_until_ready(programs.copy(rows, into))
        times.append(time.perf_counter() - begin)
    copy_s = statistics.median(times[1:])
    n_bytes = rows.nbytes
    del rows, into
    return Ceilings(
        read_bytes_per_s=n_bytes / read_s,
        copy_bytes_per_s=2 * n_bytes / copy_s,
        product_float32_flops_per_s=_product_rate(sizes.n_product, jnp.float32),
        product_bfloat16_flops_per_s=_product_rate(sizes.n_product, jnp.bfloat16),
        measured_at=time.time(),
        load=load,
    )


def _product_rate(n: int, dtype: jax.typing.DTypeLike) -> float:
    a = jnp.ones((n, n), dtype)
    return 2 * n**3 / timed(programs.product, a, a, n_runs=_N_RUNS).median_s


def ceilings(*, remeasure: bool = False, store: ProfileStore | None = None) -> Ceilings:
    """Returns the ceilings of this machine's device, measured once and then remembered.

    Args:
        remeasure: measure again even if there is an earlier result.
        store: where results are kept; None means `profiles.json` in the user's cache folder. If
            that folder cannot be used a warning says so and the result is not kept.

    Cost:
        About two seconds on a CPU and 512 MiB of memory when it measures; a file read otherwise.
    """
    key = {"what": "ceilings", **fingerprint()}
    if store is None:
        try:
            store = ProfileStore(backend.cache_directory() / "profiles.json")
        except StorageError as error:
            warnings.warn(f"measured ceilings are not kept: {error}", stacklevel=2)
    if store is not None and not remeasure:
        try:
            found = store.get(key)
            if found is not None:
                return Ceilings(**found)
        except (IntegrityError, TypeError) as error:
            warnings.warn(f"earlier ceilings cannot be read: {error}", stacklevel=2)
    result = measure(_SIZES[backend.platform()])
    if store is not None:
        store.keep(key, dataclasses.asdict(result), "measured ceilings are")
    return result
