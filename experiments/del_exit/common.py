"""What the DEL scripts share: the models, held-out prompts in three domains, and the flags."""

import functools
import hashlib
import pathlib
import tempfile
from typing import Any

from ariel_jax import load_pretrained, testing
from ariel_jax.algorithms import del_exit
from ariel_jax.errors import ConfigError
from experiments.nano import corpus
from experiments.nano.files import DOMAINS
from experiments.runner import Case, Settings

EXITS = (1, 2, 5, 8)
MAX_DRAFT = 7
TWIN = pathlib.Path(__file__).parents[1] / "nano" / "twin"
N_PROMPT, N_NEW, N_PROMPTS = 96, 128, 20
CAPACITY = 256

FLAGS = {"model": "nano", "exits": "", "look_every": "", "omega": ""}
"""`--model` nano or a folder; `--exits 1,2,5`, `--look-every` rounds and `--omega`, chosen once for all
domains; empty: `EXITS` for nano and `del_exit.default_exits` for others, looks that take a tenth of a step,
and the paper's 0.95."""

WITH_TWIN = FLAGS | {"twin": ""}
"""`--twin`: the same model trained without early exits; empty: that of nano, and none for others."""


def config(settings: Settings) -> dict[str, Any]:
    """The numbers that every case depends on."""
    tiny = settings.is_tiny
    n_layers = model(settings).cfg.n_layers
    return {
        "n_prompts": 2 if tiny else N_PROMPTS,
        "n_prompt": 24 if tiny else N_PROMPT,
        "n_new": 20 if tiny else N_NEW,
        "n_rounds": 1 if tiny else 5,
        "exits": list(_exits(settings, n_layers)),
        "max_draft": 2 if tiny else MAX_DRAFT,
        "row_buckets": [3] if tiny else [2, 4, MAX_DRAFT + 1],
        "omega": _omega(settings),
        "weights": weights_sha256(settings.flags.get("model", "nano")),
    }


def _exits(settings: Settings, n_layers: int) -> tuple[int, ...]:
    named = settings.flags.get("exits", "")
    if not all(part.strip().isdecimal() for part in named.split(",") if named):
        raise ConfigError(f"--exits {named!r} is not allowed: pass layers, rising, as in 1,2,5.")
    if named:
        return tuple(int(part) for part in named.split(","))
    if settings.is_tiny:
        return (1, 2)
    is_nano = settings.flags.get("model", "nano") == "nano"
    return EXITS if is_nano else del_exit.default_exits(n_layers)


def _omega(settings: Settings) -> float:
    named = settings.flags.get("omega", "")
    try:
        return float(named or 0.95)
    except ValueError as error:
        raise ConfigError(
            f"--omega {named!r} is not allowed: pass a number above 0 and up to 1."
        ) from error


def weights_sha256(folder: str) -> str:
    """Of a folder's weights, so that results of other weights are not taken for theirs."""
    digest = hashlib.sha256()
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return "" if folder == "nano" else digest.hexdigest()


def look_every(settings: Settings, costs: del_exit.Costs) -> int:
    """Rounds between two looks at all exits.

    Raises:
        ConfigError: the flag is no whole number.
    """
    given = settings.flags.get("look_every", "")
    if given and not given.isdecimal():
        raise ConfigError(f"--look-every {given!r} is not allowed: pass a whole number.")
    return int(given) if given else del_exit.look_every(costs)


def model(settings: Settings) -> Any:
    """The model that is measured; for tiny settings a random one in the place of nano."""
    return _load(settings.flags.get("model", "nano"), settings.is_tiny)


def twin(settings: Settings) -> Any:
    """The same trained without early exits, or None if there is none."""
    named = settings.flags.get("twin", "")
    if not named and settings.flags.get("model", "nano") != "nano":
        return None
    return _load(named or str(TWIN), settings.is_tiny)


@functools.cache
def _load(name: str, is_tiny: bool) -> Any:
    if not is_tiny or name not in ("nano", str(TWIN)):
        return load_pretrained(name)
    with tempfile.TemporaryDirectory() as folder:
        testing.write_toy_checkpoint(f"{folder}/toy", n_layers=3, seed=len(name), max_positions=256)
        return load_pretrained(f"{folder}/toy")


@functools.cache
def _heldout() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {domain: [] for domain in DOMAINS}
    for document in corpus.collect():
        if document.split == "heldout":
            found[document.domain].extend(document.parts)
    return found


def by_domain(settings: Settings, config: dict[str, Any], *, expected_s: float) -> list[Case]:
    """One case per domain; at the smallest scale the first one only."""
    names = DOMAINS[: 1 if settings.is_tiny else len(DOMAINS)]
    return [Case(name=name, config=config, expected_s=expected_s) for name in names]


def prompts(
    case: dict[str, Any], loaded: Any, domain: str, settings: Settings, *, skip: int = 0
) -> list[list[int]]:
    """The first tokens of held-out documents of a domain, after the start token.

    Args:
        case: a case's config.
        loaded: the model.
        domain: one of `DOMAINS`.
        settings: tiny ones take a fixed text instead of the corpus, which takes half a minute to
            collect.
        skip: documents left out, so that what is chosen on some is not measured on the same ones.

    Raises:
        ConfigError: this Python's library has too few documents of that length.
    """
    texts = [f"{domain} {i}: one two one two one two {i}" for i in range(30)]
    texts = texts if settings.is_tiny else _heldout()[domain]
    n, start_id = case["n_prompt"], loaded.generation.bos_id
    found: list[list[int]] = []
    for text in texts:
        ids = loaded.tokenizer.encode(text[: 12 * n])
        if len(ids) >= n - 1 or (domain == "templates" and len(ids) >= n // 4):
            found.append([start_id, *ids[: n - 1]])
        if len(found) == skip + case["n_prompts"]:
            return found[skip:]
    raise ConfigError(
        f"only {len(found)} held-out documents of {domain} have {n} tokens, "
        f"{skip + case['n_prompts']} are needed: run with another Python's standard library, or fewer "
        "prompts."
    )
