"""Classification tasks that nothing is downloaded for: clusters, digits, and docstrings by module.

A `Task` is data, a model and a loss of one example. The validation part is what learning rates and clip
norms are chosen on; no method trains on it.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ariel_jax.errors import missing_extra
from ariel_jax.layers.linear import Linear, linear
from experiments.dp_grape import docstrings, patches

Records = Mapping[str, np.ndarray]
Logits = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class ExampleLoss:
    """Cross-entropy of one example `{"x", "y"}` under a model; equal to its like and hashable.

    Attributes:
        logits: `logits(params, x) -> [classes]`, of one example.
    """

    logits: Logits

    def __call__(self, params: Any, example: Any, key: jax.Array) -> jax.Array:
        """[] float32."""
        return -jax.nn.log_softmax(self.logits(params, example["x"]))[example["y"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt, by which model.

    Attributes:
        name: of the task.
        train, validation, test: `{"x": [n, ...], "y": [n] int32}`.
        init: `init(seed) -> params`.
        logits: of one example.
        widths: path of each weight that DP-GRAPE projects and the length of its smaller axis; the classifier
            is trained in full.
        head: regular expressions of the classifier, which LoRA and BitFit train as well.
        frozen: regular expressions of what no method trains.
    """

    name: str
    train: Records
    validation: Records
    test: Records
    init: Callable[[int], Any]
    logits: Logits
    widths: Mapping[str, int]
    head: tuple[str, ...]
    frozen: tuple[str, ...] = ()

    @property
    def loss(self) -> ExampleLoss:
        """Of one example."""
        return ExampleLoss(self.logits)

    def accuracy(self, params: Any, records: Records) -> jax.Array:
        """[] float32 share of records that are classified rightly; inside a program, too."""
        found = jax.vmap(self.logits, in_axes=(None, 0))(params, jnp.asarray(records["x"]))
        return jnp.mean((jnp.argmax(found, -1) == jnp.asarray(records["y"])).astype(jnp.float32))


def load(name: str, *, tiny: bool = False) -> Task:
    """The task of a name.

    Args:
        name: one of `TASKS`.
        tiny: few records and a small model, for scale `smoke`.

    Raises:
        MissingExtraError: digits without scikit-learn.
    """
    return TASKS[name](tiny=tiny)


def mlp_logits(params: Any, x: jax.Array) -> jax.Array:
    """[classes] of an MLP with rectifiers for x [in]."""
    *hidden, last = params["layers"]
    for layer in hidden:
        x = jax.nn.relu(linear(x, layer))
    return linear(x, last)


def mlp(widths: tuple[int, ...]) -> Callable[[int], Any]:
    """`init(seed)` of `mlp_logits`: weights of variance 2 / in, zero biases."""

    def init(seed: int) -> Any:
        rng = np.random.default_rng([seed, 1])
        return {"layers": [_linear(rng, n_out, n_in) for n_in, n_out in itertools.pairwise(widths)]}

    return init


def _linear(rng: np.random.Generator, n_out: int, n_in: int) -> Linear:
    w = rng.standard_normal((n_out, n_in), np.float32) * np.float32((2 / n_in) ** 0.5)
    return Linear(w=jnp.asarray(w), b=jnp.zeros(n_out, jnp.float32))


def _mlp_task(
    name: str, widths: tuple[int, ...], train: Records, validation: Records, test: Records
) -> Task:
    pairs = itertools.pairwise(widths[:-1])
    return Task(
        name=name, train=train, validation=validation, test=test, init=mlp(widths),
        logits=mlp_logits, widths={f"layers.{i}.w": min(pair) for i, pair in enumerate(pairs)},
        head=(rf"^layers[.]{len(widths) - 2}[.]",),
    )  # fmt: skip


@functools.cache
def clusters(*, tiny: bool = False, narrow: bool = False) -> Task:
    """Ten Gaussian clusters of variance 1 around centres drawn from 0.35 N(0, 1) in 64 dimensions.

    8,192 records to train on, 2,048 to choose by, 4,096 to test; an MLP 64-256-256-10, or 64-256-64-10
    where it is `narrow`: then one weight widens and one narrows.
    """
    dim, classes, width = (8, 3, 12) if tiny else (64, 10, 256)
    rng = np.random.default_rng(0)
    scale = 1.5 if tiny else 0.35
    centres = scale * rng.standard_normal((classes, dim))

    def records(n: int) -> Records:
        y = rng.integers(0, classes, n)
        x = centres[y] + rng.standard_normal((n, dim))
        return {"x": x.astype(np.float32), "y": y.astype(np.int32)}

    sizes = (128, 32, 64) if tiny else (8192, 2048, 4096)
    train, validation, test = (records(n) for n in sizes)
    widths = (dim, width, dim if narrow else width, classes)
    return _mlp_task("clusters", widths, train, validation, test)


@functools.cache
def digits(*, tiny: bool = False) -> Task:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn brings, and a small vision transformer.

    1,197 records to train on, 240 to choose by, 360 to test.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "test", "the task of digits") from error
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = (found.images[order] / 16).astype(np.float32)[..., None]
    y = found.target[order].astype(np.int32)
    cut = (0, 64, 96, 160) if tiny else (0, 1197, 1437, 1797)
    train, validation, test = ({"x": x[a:b], "y": y[a:b]} for a, b in itertools.pairwise(cut))
    model = patches.model(image=8, channels=1, classes=10, tiny=tiny)
    return Task(
        name="digits", train=train, validation=validation, test=test, init=model.init,
        logits=model.logits, widths=model.widths, head=(r"^classifier[.]",),
    )  # fmt: skip


@functools.cache
def docstring_modules(*, tiny: bool = False, root: pathlib.Path | None = None) -> Task:
    """Which module of the standard library a docstring comes from; an MLP on hashed words.

    Of the records for training one in six is kept back to choose by.
    """
    rows = docstrings.labelled(docstrings.collect(root))
    dim, width = (64, 16) if tiny else (512, 128)
    labels = list(docstrings.MODULES)

    def records(part: list[docstrings.Docstring]) -> Records:
        x = np.stack([docstrings.hashed_words(row.text, dim) for row in part])
        return {"x": x, "y": np.asarray([labels.index(row.module) for row in part], np.int32)}

    train = [row for row in rows if row.split == "train"]
    kept = [row for row in train if docstrings.share(row.name, "validation") < 1 / 6]
    train = [row for row in train if row not in kept]
    test = [row for row in rows if row.split == "test"]
    return _mlp_task(
        "docstrings", (dim, width, width, len(labels)), records(train), records(kept), records(test)
    )


TASKS: dict[str, Callable[..., Task]] = {
    "clusters": clusters,
    "digits": digits,
    "docstrings": docstring_modules,
}
