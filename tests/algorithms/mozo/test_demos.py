"""Demonstrations: files with errors, prompts, one public length, owners, and secret draws into slots."""

import dataclasses
import json
import traceback

import numpy as np
import pytest

from ariel_jax.algorithms.mozo import Config, Numbers, demos
from ariel_jax.algorithms.mozo.demos import Demonstration, PromptFormat
from ariel_jax.algorithms.mozo.draws import Subsets
from ariel_jax.algorithms.mozo.price import Plan
from ariel_jax.errors import (
    AccountingMismatchError,
    CheckpointError,
    ConfigError,
    DemoTooLongError,
    PrivacyUnitError,
)
from ariel_jax.testing import toy_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


def pairs(n, owner=lambda i: None):
    return [Demonstration(input=f"in {i}", output=f"out {i}", owner=owner(i)) for i in range(n)]


def test_a_file_is_read_with_owners_of_text_or_number(tmp_path):
    path = tmp_path / "demos.jsonl"
    rows = [{"input": "a", "output": "b", "owner": 7}, {"input": "c", "output": "d", "owner": "x"}]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert demos.load(path) == [
        Demonstration(input="a", output="b", owner="7"),
        Demonstration(input="c", output="d", owner="x"),
    ]
    path.write_text('{"text": "t"}')
    assert demos.load(path) == [Demonstration(text="t")]


@pytest.mark.parametrize(
    "line",
    [
        "SECRET no json",
        '["SECRET"]',
        '{"input": "SECRET"}',
        '{"input": "SECRET", "output": ""}',
        '{"input": "SECRET", "output": 3}',
        '{"input": "a", "output": "SECRET", "text": "b"}',
        '{"text": "SECRET", "label": "b"}',
        '{"text": "SECRET", "owner": null}',
        '{"text": "SECRET", "owner": true}',
        '{"text": "SECRET", "owner": ""}',
        r'{"text": "SECRET \ud800"}',
        r'{"text": "a", "owner": "SECRET \udc00"}',
        '{"text": ' + "[" * 100_000 + '"SECRET"' + "]" * 100_000 + "}",
    ],
)
def test_a_line_that_is_no_demonstration_is_named_and_not_repeated(tmp_path, line):
    path = tmp_path / "demos.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    with pytest.raises(ConfigError, match="line 2 is no demonstration") as error:
        demos.load(path)
    assert "SECRET" not in str(error.value)
    assert error.value.__cause__ is error.value.__context__ is None


def test_what_the_tokenizer_cannot_read_is_named_by_its_number_alone(tokenizer):
    class Broken:
        """Fails as a damaged file does, which quotes the text."""

        def encode(self, text, *args, **options):
            if text:
                raise RuntimeError(f"no token for {text}")
            return tokenizer.backend.encode(text)

    half = [*pairs(1), Demonstration(input="SECRET \ud800", output="SECRET")]
    damaged = dataclasses.replace(tokenizer, backend=Broken())
    cases = [
        (tokenizer, half, ConfigError, "fails on demonstration 2"),
        (damaged, [Demonstration(text="SECRET")], CheckpointError, "fails on demonstration 1"),
    ]
    for made, records, kind, message in cases:
        with pytest.raises(kind, match="SECRET"):  # what would have been said
            made.encode(PromptFormat().demonstration_text(records[-1]))
        with pytest.raises(kind, match=message) as error:
            demos.encode(records, made, max_tokens=40, too_long="cut")
        said = "".join(traceback.format_exception(error.value, chain=True))
        assert "SECRET" not in said
        assert error.value.__cause__ is error.value.__context__ is None


def test_files_that_are_missing_empty_or_no_text(tmp_path):
    with pytest.raises(ConfigError, match="cannot read demonstrations"):
        demos.load(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ConfigError, match="holds no demonstrations"):
        demos.load(tmp_path / "empty.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        demos.load(tmp_path / "bytes.jsonl")


def test_places_inside_values_are_not_filled_again():
    format = PromptFormat(demonstration="{input} -> {output};", query="{input} ->")
    tricky = Demonstration(input="{output} {x}", output="{input}")
    assert format.demonstration_text(tricky) == "{output} {x} -> {input};"
    assert format.query_text("{input}") == "{input} ->"
    with pytest.raises(ConfigError, match=r"lacks \{output\}"):
        PromptFormat(demonstration="{input}")
    for wrong in (
        {"demonstration": "{input} {input} {output}"},
        {"demonstration": "{input} {output} {text}"},
        {"text": "{text}{text}"},
        {"query": "{input} {input}"},
    ):
        with pytest.raises(ConfigError, match="once, and no other one"):
            PromptFormat(**wrong)
    with pytest.raises(ConfigError, match=r"query='.*' has no UTF-8 form"):
        PromptFormat(query="{input}\ud800")
    with pytest.raises(ConfigError, match="stop"):
        PromptFormat(stop=("",))


def test_rows_have_one_public_length_and_the_last_one_is_the_instruction(tokenizer):
    format = PromptFormat(instruction="Do it.\n")
    encoded = demos.encode(pairs(3), tokenizer, format, max_tokens=40)
    n = len(tokenizer.encode(format.instruction))
    assert encoded.tokens.shape == (4, n + 40)
    assert encoded.lengths[encoded.zero_shot] == n
    for row in range(3):
        text = tokenizer.decode(encoded.tokens[row, : encoded.lengths[row]].tolist())
        assert text == f"Do it.\nInput: in {row}\nOutput: out {row}\n\n"


def test_a_long_demonstration_is_refused_or_cut_by_itself_and_keeps_its_output(tokenizer):
    long = Demonstration(input="wxyz" * 20, output="kept")
    with pytest.raises(DemoTooLongError, match=r"demonstration 2 has more than max_tokens=40.*cut"):
        demos.encode([*pairs(1), long], tokenizer, max_tokens=40)
    encoded = demos.encode([*pairs(1), long], tokenizer, max_tokens=40, too_long="cut")
    text = tokenizer.decode(encoded.tokens[1, : encoded.lengths[1]].tolist())
    assert text.startswith("Input: wxyzwxyz")
    assert text.endswith("\nOutput: kept\n\n")
    assert encoded.lengths[1] in (39, 40)
    # What is cut does not depend on the others.
    alone = demos.encode([long], tokenizer, max_tokens=40, too_long="cut")
    np.testing.assert_array_equal(alone.tokens[0], encoded.tokens[1])
    endless = Demonstration(input="a", output="wxyz" * 20)
    with pytest.raises(DemoTooLongError, match="its input cannot be cut"):
        demos.encode([endless], tokenizer, max_tokens=40, too_long="cut")


def test_several_demonstrations_of_an_owner_need_a_policy(tokenizer):
    records = pairs(6, lambda i: f"owner {i // 2}")
    with pytest.raises(PrivacyUnitError, match="3 owners have several"):
        demos.encode(records, tokenizer)
    assert demos.encode(records, tokenizer, owner_policy="sample_owners").units.records == (
        (0, 1),
        (2, 3),
        (4, 5),
    )


def test_owners_stand_in_all_demonstrations_or_in_none(tokenizer, tmp_path):
    # Without the check the two that have no name would be units of their own, whoever gave them.
    records = pairs(4, lambda i: "SECRET" if i < 2 else None)
    path = tmp_path / "demos.jsonl"
    rows = [{"input": "a", "output": "b"}, {"input": "c", "output": "d", "owner": "SECRET"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    for policy in (None, "sample_owners", "price_records"):
        with pytest.raises(PrivacyUnitError, match="2 of 4 demonstrations have an owner") as error:
            demos.encode(records, tokenizer, owner_policy=policy)
        assert "SECRET" not in str(error.value)
    with pytest.raises(PrivacyUnitError, match="1 of 2 demonstrations have an owner"):
        demos.load(path)


def test_a_set_of_demonstrations_is_of_one_kind(tokenizer, tmp_path):
    # Else one private record, the first, would choose what the public prompt looks like.
    mixed = [Demonstration(text="SECRET"), *pairs(2)]
    path = tmp_path / "demos.jsonl"
    for records in (mixed, mixed[::-1]):
        path.write_text("\n".join(json.dumps(record.fields()) for record in records))
        for read in (lambda: demos.load(path), lambda r=records: demos.encode(r, tokenizer)):
            with pytest.raises(ConfigError, match="1 of 3 demonstrations are texts") as error:
                read()
            assert "SECRET" not in str(error.value)
    assert demos.encode(mixed[:1], tokenizer).are_texts
    assert not demos.encode(mixed[1:], tokenizer).are_texts
    with pytest.raises(ConfigError, match=r"demonstration 2 has the fields \['input'\]"):
        demos.encode([*pairs(1), Demonstration(input="a")], tokenizer)


def plan(n, slots, sampler="poisson", **more):
    fields = {"truncation": 0.1} if sampler == "poisson" else {}
    return Plan(
        config=Config(n_slots=slots, top_k=None),
        numbers=Numbers(eta=1.0, weight=0.5),
        n_demonstrations=n,
        max_tokens=4,
        sampler=sampler,
        **{**fields, **more},
    )


def subsets(tokenizer, made, n, seed=1):
    return Subsets.of(made, demos.encode(pairs(n), tokenizer), seed=seed)


def test_poisson_draws_enter_random_slots_by_their_own_coins(tokenizer):
    drawing = subsets(tokenizer, plan(20, 16, expected=4.0), 20)
    rows = np.stack([drawing.draw(q, b).rows for q in range(40) for b in range(10)])
    there = rows >= 0
    assert there.any(0).all()  # every slot is used
    # 20 x 400 coins of 0.2: five standard deviations around the mean, of all and of each.
    assert abs(there.sum() - 1600) < 5 * np.sqrt(1280)
    counts = np.bincount(rows[there], minlength=20)
    assert abs(counts - 80).max() < 5 * 8
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in rows)
    np.testing.assert_array_equal(drawing.draw(3, 1).rows, drawing.draw(3, 1).rows)
    assert any((drawing.draw(q, 0).rows != drawing.draw(q, 1).rows).any() for q in range(20))
    # Where one demonstration lies tells nothing of how many others were drawn.
    alone = rows[there.sum(1) <= 3]
    first = [np.flatnonzero(row >= 0)[0] for row in alone if (row >= 0).sum() == 1]
    assert len(set(first)) > 3


def test_draws_of_other_samplers(tokenizer):
    drawing = subsets(tokenizer, plan(9, 4, "without_replacement"), 9)
    rows = np.stack([drawing.draw(0, b).rows for b in range(50)])
    assert all(len(set(row)) == 4 for row in rows)
    assert len(np.unique(np.sort(rows), axis=0)) > 20
    drawing = subsets(tokenizer, plan(9, 4, "partition"), 9)
    groups = [set(drawing.draw(q, 0).rows.tolist()) for q in range(4)]
    assert groups[0].isdisjoint(groups[1])
    assert groups[2:] == groups[:2]
    drawing = subsets(tokenizer, plan(3, 4, "none"), 3)
    assert sorted(drawing.draw(0, 0).rows.tolist()) == [-1, 0, 1, 2]


def test_draws_of_owners_take_one_record_or_all(tokenizer):
    records = pairs(6, lambda i: f"owner {i // 2}")
    one = demos.encode(records, tokenizer, owner_policy="sample_owners")
    drawing = Subsets.of(plan(3, 3, "none", unit="owner"), one, seed=1)
    rows = np.stack([np.sort(drawing.draw(0, b).rows) for b in range(90)])
    assert {tuple(row // 2) for row in rows} == {(0, 1, 2)}
    assert len(np.unique(rows, axis=0)) == 8
    every = demos.encode(records, tokenizer, owner_policy="price_records", most_per_owner=2)
    for paid in (2, 3):  # more may be paid for than there is
        priced = plan(3, 3 * paid, "none", records_per_owner=paid, unit="owner")
        rows = Subsets.of(priced, every).draw(0, 0).rows
        assert sorted(rows[rows >= 0].tolist()) == list(range(6))
    with pytest.raises(PrivacyUnitError, match="up to 2 demonstrations of an owner are shown"):
        Subsets.of(plan(3, 6, "none", unit="owner"), every)
    with pytest.raises(PrivacyUnitError, match="plan with unit='owner'"):
        Subsets.of(plan(3, 3, "none"), one)


def test_the_price_is_for_these_demonstrations(tokenizer):
    with pytest.raises(AccountingMismatchError, match="plan for at least 5"):
        subsets(tokenizer, plan(4, 4, expected=1.0), 5)
    for neighbours in ("zero_out", "add_remove"):  # a public number that they do not exceed
        subsets(tokenizer, plan(6, 6, expected=1.0, neighbours=neighbours), 5)
    with pytest.raises(AccountingMismatchError, match="plan for exactly 5"):
        subsets(tokenizer, plan(6, 4, "partition"), 5)


def test_a_seed_repeats_draws_and_without_one_they_are_secret(tokenizer):
    made = plan(20, 16, expected=4.0)
    known = [subsets(tokenizer, made, 20, seed=1).draw(0, 0).rows for _ in range(2)]
    np.testing.assert_array_equal(*known)
    secret = {subsets(tokenizer, made, 20, seed=None).seed for _ in range(2)}
    assert len(secret) == 2
    drawing = subsets(tokenizer, made, 20, seed=None)
    assert drawing.seed not in repr(drawing)
    assert dataclasses.replace(drawing).seed == drawing.seed
