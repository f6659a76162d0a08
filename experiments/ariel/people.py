"""Real users in folds: their judgements, and the population's model without some of them."""

import numpy as np

from ariel_jax.algorithms.ariel import baselines, importers, synthetic
from experiments.ariel.common import Person

SLOTS = ("data", "recipient", "domain", "principle")
"""Of the agent permissions: the task enters by its domain, and by whether it needs the item."""


def table_of(folder: str, *, seed: int, tiny: bool, four_way: bool = False) -> importers.Table:
    """The judgements; made-up ones without a folder."""
    if not folder:
        knobs = synthetic.Knobs(
            family="additive", n_users=12 if tiny else 120, n_history=20, n_requests=10
        )
        made = synthetic.users(knobs, seed)
        U, N, M = knobs.n_users, knobs.n_history, knobs.n_requests
        label = np.concatenate([made.said, made.wanted], 1).astype(np.int8).reshape(-1)
        names = tuple(tuple(str(i) for i in range(V)) for V in knobs.sizes)
        return importers.Table(
            source="made up", slots=SLOTS, names=names, user=np.repeat(np.arange(U, dtype=np.int32), N + M),
            nodes=np.concatenate([made.history, made.asked], 1).reshape(-1, 4), label=label,
            is_test=np.tile(np.arange(N + M) >= N, U), leans=label, group=np.zeros(len(label), np.int32),
        )  # fmt: skip
    if importers.known(folder) is importers.education:
        table = importers.education(folder)
        rng = np.random.default_rng(seed)
        half = np.concatenate([rng.permutation(n) >= (n + 1) // 2 for n in np.bincount(table.user)])
        order = np.argsort(table.user, kind="stable")
        table.is_test[order] = half
        return table
    return importers.agent_permissions(folder, four_way=four_way)


class Folds:
    """Users in folds, and the population's model without one or two of them."""

    def __init__(self, table: importers.Table, n: int, seed: int) -> None:
        columns = [table.slots.index(s) for s in SLOTS if s in table.slots]
        if table.source == "education":
            columns = list(range(len(table.slots)))
        self.nodes, self.sizes = table.nodes[:, columns], tuple(table.sizes[c] for c in columns)
        self.table, self.n = table, n
        n_users = int(table.user.max()) + 1
        self.fold = np.random.default_rng(seed).permutation(n_users) % n
        self._models: dict[frozenset[int], baselines.Additive] = {}

    def model(self, *without: int) -> baselines.Additive:
        """From the histories of users of other folds."""
        key = frozenset(without)
        if key not in self._models:
            t = self.table
            rows = ~np.isin(self.fold[t.user], without) & ~t.is_test & (t.label != importers.ASKS)
            self._models[key] = baselines.norm(
                t.user[rows], self.nodes[rows], t.label[rows] == importers.APPROPRIATE, self.sizes
            )
        return self._models[key]

    def people(self, fold: int, model: baselines.Additive) -> tuple[list[Person], np.ndarray]:
        """Users of a fold with the model's order, and the rows of their requests."""
        t, order = self.table, baselines.order(model)
        people, rows = [], []
        for user in np.flatnonzero(self.fold == fold):
            mine = t.user == user
            asked, told = np.flatnonzero(mine & t.is_test), np.flatnonzero(mine & ~t.is_test)
            if len(asked):
                rows.append(asked)
                people.append(
                    Person(
                        order=order,
                        history=self.nodes[told],
                        said=t.label[told],
                        asked=self.nodes[asked],
                    )
                )
        return people, np.concatenate(rows)
