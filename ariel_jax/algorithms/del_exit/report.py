"""What a run with `SelfSpeculative` has done so far, in a few numbers."""

import dataclasses

import jax
import numpy as np

from ariel_jax.algorithms.del_exit import controller
from ariel_jax.algorithms.del_exit.config import Config
from ariel_jax.algorithms.del_exit.rounds import Aux
from ariel_jax.decode.state import DecodeState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Of all requests together.

    Attributes:
        rounds: taken, summed over requests.
        is_done: all requests have ended.
        exit: layer of the next draft; None where nothing is drafted next.
        drafts_per_round: of the rounds that had any; 0 without any.
        acceptance: share of drafts that held; 0 without any.
        tokens_per_load: tokens over layers loaded; plain decoding has 1 / L.
        plain_share: share of rounds without drafts.
        acceptance_by_exit: the estimates of the controller, by layer.
    """

    rounds: int
    is_done: bool
    exit: int | None
    drafts_per_round: float
    acceptance: float
    tokens_per_load: float
    plain_share: float
    acceptance_by_exit: dict[int, float]

    @property
    def is_plain(self) -> bool:
        """Whether, after 20 rounds, next to nothing is drafted: the exits promise nothing here."""
        return self.rounds > 20 and self.plain_share > 0.9

    def line(self, n_layers: int) -> str:
        """The numbers in a line."""
        exit = "no draft next | " if self.exit is None else f"next exit {self.exit} | "
        return (
            f"{'' if self.is_done else exit}{self.drafts_per_round:.1f} drafts a round | "
            f"{100 * self.acceptance:.0f} % held | {self.tokens_per_load:.3f} tokens per layer load "
            f"(plain {1 / n_layers:.3f})"
        )


def progress(how: Config, state: DecodeState) -> Progress:
    """What was done up to `state`; waits for it.

    Args:
        how: the strategy's settings.
        state: of a run.
    """
    aux: Aux
    aux, stats, known, prompt, done = jax.device_get(
        (state.aux, state.stats, state.n_known(), state.prompt_length, state.done)
    )
    rounds, drafting = int(aux.rounds.sum()), int(aux.drafting.sum())
    proposed, accepted = int(stats.proposed.sum()), int(stats.accepted.sum())
    loads = int(aux.loads.sum())
    tokens = int((known - prompt).sum()) - len(known)  # prefill drew the first one of each
    alpha = np.asarray(controller.acceptance(aux.control.seen)).mean(axis=0)
    return Progress(
        rounds=rounds,
        is_done=bool(done.all()),
        exit=how.exits[int(aux.plan.exit)] if aux.plan.limit.any() else None,
        drafts_per_round=proposed / drafting if drafting else 0.0,
        acceptance=accepted / proposed if proposed else 0.0,
        tokens_per_load=tokens / loads if loads else 0.0,
        plain_share=1 - drafting / rounds if rounds else 0.0,
        acceptance_by_exit={e: float(a) for e, a in zip(how.exits, alpha, strict=True)},
    )
