"""Tiny decoders, batches and token files of the training tests."""

import pathlib

import numpy as np
import pytest

from ariel_jax.models.config import DecoderConfig
from ariel_jax.models.params import DecoderParams
from ariel_jax.testing import tiny_config, tiny_params
from ariel_jax.training.data import TokenFileSource, save_tokens
from ariel_jax.training.step import LMBatch


@pytest.fixture(scope="session")
def cfg() -> DecoderConfig:
    return tiny_config("llama", n_layers=3, vocab_size=64, tie_embed=True)


@pytest.fixture
def params(cfg: DecoderConfig) -> DecoderParams:
    return tiny_params(cfg, seed=1)


@pytest.fixture(scope="session")
def batch() -> LMBatch:
    tokens = np.random.default_rng(5).integers(0, 64, (8, 13)).astype(np.int32)
    targets = tokens[:, 1:].copy()
    targets[2, 5:] = -1
    return LMBatch(tokens=tokens[:, :-1], targets=targets, step=np.int32(4))


@pytest.fixture(scope="session")
def no_padding() -> np.ndarray:
    return np.zeros(8, bool)


@pytest.fixture(scope="session")
def token_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(9)
    for name, size in (("a", 700), ("b", 300)):
        save_tokens(folder / f"{name}.npy", [rng.integers(1, 64, size)], separator=0)
    return tuple(str(folder / f"{name}.npy") for name in "ab")


@pytest.fixture
def source(token_files: tuple[str, ...]) -> TokenFileSource:
    return TokenFileSource(
        files=token_files,
        weights=(0.7, 0.3),
        tokens_per_batch=32,
        lengths=((0, 8), (5, 16)),
        seed=3,
        vocab_size=64,
    )


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "run"
