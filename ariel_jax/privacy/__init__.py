"""What every private system shares: budgets, their accounting, and keys.

`Ledger` keeps accounts of privacy budgets in a durable file and refuses what would go beyond them;
`accounting` prices runs of noisy sums and finds the noise for a budget; `renyi.Price` is what both speak.
"""

from ariel_jax.privacy.accounting import Plan, calibrate
from ariel_jax.privacy.ledger import Ledger, Terms, Ticket
from ariel_jax.privacy.random import secure_key
from ariel_jax.privacy.renyi import ORDERS, RELATIONS, Price, gaussian

__all__ = [
    "ORDERS",
    "RELATIONS",
    "Ledger",
    "Plan",
    "Price",
    "Terms",
    "Ticket",
    "calibrate",
    "gaussian",
    "secure_key",
]
