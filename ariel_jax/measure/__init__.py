"""What this machine is and how fast it can be: fingerprint, timing, stored profiles, ceilings."""

from ariel_jax.measure.limits import Ceilings, ceilings
from ariel_jax.measure.machine import fingerprint
from ariel_jax.measure.store import ProfileStore
from ariel_jax.measure.timing import Timing, timed

__all__ = ["Ceilings", "ProfileStore", "Timing", "ceilings", "fingerprint", "timed"]
