import json
import pathlib

import numpy as np
import pytest

from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.training.data import TokenFileSource, save_tokens


def draw(source, n, state=None):
    state = source.init() if state is None else state
    batches = []
    for _ in range(n):
        (batch, is_padding), state = source.next(state)
        assert not is_padding.any()
        batches.append(batch)
    return batches, state


def test_a_state_gives_the_same_batches_again(source):
    batches, _ = draw(source, 9)
    _, halfway = draw(source, 4)
    stored = json.loads(json.dumps(halfway))
    again, _ = draw(source, 5, stored)
    for one, other in zip(batches[4:], again, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.targets, other.targets)
        assert one.step == other.step
    assert stored == json.loads(json.dumps(halfway))


def test_lengths_follow_the_schedule_and_targets_are_the_next_tokens(source):
    batches, _ = draw(source, 7)
    assert [b.tokens.shape for b in batches] == [(4, 8)] * 5 + [(2, 16)] * 2
    for batch in batches:
        np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_an_epoch_visits_every_window_once(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.arange(101, dtype=np.int32))
    source = TokenFileSource(
        files=(str(path),),
        weights=(1.0,),
        tokens_per_batch=10,
        lengths=((0, 10),),
        seed=0,
        vocab_size=101,
    )
    for epoch in range(2):
        batches, state = draw(source, 9 * (epoch + 1))
        starts = sorted(int(b.tokens[0, 0]) for b in batches[-9:])
        np.testing.assert_array_equal(np.diff(starts), 10)
    assert state["drawn"] == [18]


def test_files_are_drawn_by_weight(token_files):
    source = TokenFileSource(
        files=token_files,
        weights=(3.0, 1.0),
        tokens_per_batch=800,
        lengths=((0, 8),),
        seed=0,
        vocab_size=64,
    )
    _, state = draw(source, 10)
    # 1,000 draws with p = 3/4: outside 690..810 with probability below 2e-5.
    assert 690 < state["drawn"][0] < 810
    assert sum(state["drawn"]) == 1000


def test_save_tokens_puts_the_separator_around_documents(tmp_path):
    assert save_tokens(tmp_path / "t.npy", [[5, 6], [7]], separator=0) == 6
    stored = np.load(tmp_path / "t.npy")
    assert stored.tolist() == [0, 5, 6, 0, 7, 0]
    assert stored.dtype == np.uint16


def make(files, **changes):
    fields = {
        "files": files,
        "weights": (1.0,) * len(files),
        "tokens_per_batch": 32,
        "lengths": ((0, 8),),
        "seed": 0,
        "vocab_size": 64,
    }
    return TokenFileSource(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": (1.0,)},
        {"weights": (0.0, 0.0)},
        {"lengths": ((1, 8),)},
        {"lengths": ((0, 7),)},
        {"lengths": ((0, 8), (0, 16))},
        {"files": ()},
        {"tokens_per_batch": 0},
    ],
)
def test_impossible_sources_are_refused(token_files, changes):
    with pytest.raises(ConfigError):
        make(changes.pop("files", token_files), **({"weights": (1.0, 1.0)} | changes))


def test_bad_token_files_are_refused(tmp_path: pathlib.Path, token_files):
    with pytest.raises(ConfigError, match="tokenizer"):
        draw(make(token_files, vocab_size=10), 1)
    np.save(tmp_path / "short.npy", np.zeros(9, np.uint16))
    with pytest.raises(ConfigError, match="too few"):
        draw(make((str(tmp_path / "short.npy"),)), 1)
    np.save(tmp_path / "float.npy", np.zeros(99))
    with pytest.raises(CheckpointError, match="uint16"):
        draw(make((str(tmp_path / "float.npy"),)), 1)
    with pytest.raises(CheckpointError, match="cannot read"):
        draw(make((str(tmp_path / "missing.npy"),)), 1)


def test_a_file_that_takes_another_ones_place_is_read_anew(tmp_path):
    path = tmp_path / "t.npy"

    def first_row(value):
        save_tokens(path, [[value] * 60], separator=0)
        source = TokenFileSource(
            files=(str(path),), weights=(1.0,), tokens_per_batch=8, lengths=((0, 8),), seed=0,
            vocab_size=64,
        )  # fmt: skip
        (batch, _), _ = source.next(source.init())
        return set(np.asarray(batch.tokens).ravel().tolist())

    assert first_row(5) <= {0, 5}
    assert first_row(6) <= {0, 6}
    assert [p.name for p in tmp_path.iterdir()] == ["t.npy"]


def test_an_empty_token_file_is_refused(tmp_path):
    (tmp_path / "empty.npy").write_bytes(b"")
    source = TokenFileSource(
        files=(str(tmp_path / "empty.npy"),), weights=(1.0,), tokens_per_batch=8,
        lengths=((0, 8),), seed=0, vocab_size=64,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="cannot read token file"):
        source.next(source.init())
