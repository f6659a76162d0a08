"""Settings of DEL."""

import dataclasses

from ariel_jax._checks import in_range, one_of, positive_int
from ariel_jax.errors import ConfigError

LENGTH_RULES = ("confidence", "planned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is fixed while a program runs.

    Attributes:
        exits: layers after which drafting may end, rising.
        max_draft: most drafts in a round; the authors' code allows 18.
        omega: weight of the past at each round; 0.95 remembers about 20 rounds.
        length_rule: `confidence` drafts until the exit is less sure than its threshold (the paper's
            method); `planned` drafts as many as the score was best for (its ablation DEL-E).
        allow_zero_draft: a round may draft nothing where nothing promises more. Not in the paper: on
            a model whose intermediate layers cannot be read it falls back to plain decoding.
        shadow_every: rounds between two looks at all exits.
    """

    exits: tuple[int, ...]
    max_draft: int = 7
    omega: float = 0.95
    length_rule: str = "confidence"
    allow_zero_draft: bool = True
    shadow_every: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        positive_int(max_draft=self.max_draft, shadow_every=self.shadow_every)
        positive_int(**{f"exits[{i}]": e for i, e in enumerate(self.exits)})
        in_range(0, 1, ends="(]", omega=self.omega)
        one_of(LENGTH_RULES, length_rule=self.length_rule)
        if not self.exits or list(self.exits) != sorted(set(self.exits)):
            raise ConfigError(
                f"exits={self.exits} is not allowed: name at least one layer, rising, none twice."
            )

    @property
    def rows(self) -> int:
        """Rows that a round verifies: the pending token and all drafts."""
        return self.max_draft + 1

    def check(self, n_layers: int) -> None:
        """Checks the exits against a model.

        Raises:
            ConfigError: one is not below the number of layers.
        """
        if self.exits[-1] >= n_layers:
            raise ConfigError(
                f"exits={self.exits}: the model has {n_layers} layers, so an exit lies between 1 and "
                f"{n_layers - 1}."
            )
