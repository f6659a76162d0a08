"""Where commands on private data keep their budgets: beside the data, so that what they spend adds up."""

import pathlib

from ariel_jax.errors import ConfigError
from ariel_jax.privacy.ledger import Terms, accounts


def ledger_path(data: pathlib.Path, ledger: pathlib.Path | None) -> pathlib.Path:
    """The file of the budgets: the one that was named, else beside the data."""
    if ledger is not None:
        return ledger.resolve()
    data = data.resolve()
    return data.with_name(f"{data.name}.ledger.sqlite")


def account_terms(
    path: pathlib.Path,
    data: pathlib.Path,
    *,
    unit: str,
    relation: str,
    epsilon: float,
    delta: float,
    account: str | None,
    budget: float | None,
    ledger: pathlib.Path | None,
) -> Terms:
    """Of the account that pays: as it was opened, or as it will be.

    Args:
        path: of the ledger.
        data: the private file; its resolved path names the account.
        unit: what is protected: `record`, `owner`.
        relation: between neighbouring data sets.
        epsilon: of this run.
        delta: of the account.
        account: its name, if the user gave one.
        budget: its epsilon, if the user gave one.
        ledger: the file that the user named, if so.

    Raises:
        ConfigError: the account was opened with other terms, or the ledger beside the data has other
            accounts only.
    """
    name = account or f"{data.resolve()} by {unit}"
    there = accounts(path)
    known = there.get(name)
    wanted = epsilon if budget is None else budget
    if known is None and there and account is None and ledger is None:
        raise ConfigError(
            f"the ledger {path} beside the data has the accounts {sorted(there)} and none called {name!r}: "
            "the file was moved or copied, and a new account would forget what it has spent. Name one "
            "with --account."
        )
    if known is None:
        return Terms(account=name, relation=relation, epsilon=wanted, delta=delta)
    if (known.relation, known.delta) != (relation, delta) or (
        budget is not None and budget != known.epsilon
    ):
        raise ConfigError(
            f"the account {name!r} in {path} was opened with relation={known.relation}, "
            f"epsilon={known.epsilon:g}, delta={known.delta:g}; asked for are {relation}, "
            f"{wanted:g} and {delta:g}. Terms never change: use those, or name another --account "
            "and say that the two budgets add up."
        )
    return known
