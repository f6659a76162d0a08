"""Corpus, tokenizer and yardsticks of the model nano, on a toy library and on generated texts."""

import ast
import collections
import hashlib
import itertools
import json
import lzma
import math
import platform
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax.errors import ConfigError, StorageError
from experiments.nano import compress, corpus, files, ngram, sources, templates, tokenizer

PROSE = "This sentence is made of plain words so that it counts as prose for {}."
SECRET = "PRIVATE_MARK"


def _module(name: str, extra: str = "") -> str:
    return f'"""{PROSE.format(name)}"""\n{extra}\nvalue = "{name}"\n'


@pytest.fixture
def library(tmp_path):
    """A tree like a standard library: every kind of file that the corpus takes or leaves."""
    root = tmp_path / "lib"
    texts = {
        "LICENSE.txt": "You may use this library.\n",
        "alpha.py": _module("alpha", f"# {PROSE.format('comment one')}\n# and a second line\n"),
        "user.py": _module("user", "import secret"),
        "twin.py": _module("alpha", f"# {PROSE.format('comment one')}\n# and a second line\n"),
        "broken.py": "def f(:\n",
        "empty.py": "\n",
        "table.py": "numbers = [\n" + "12345, 67890,\n" * 500 + "]\n",
        "half.py": '"""' + PROSE.format("half a pair \\ud800") + '"""\n',
        "secret/__init__.py": _module(SECRET),
        "secret/core.py": _module(f"{SECRET} core"),
        "secret/README.txt": f"{SECRET}\n",
        "test/test_alpha.py": _module("test of alpha"),
        "test/test_secret_parts.py": _module(f"{SECRET} named"),
        "test/test_nested.py": _module(
            f"{SECRET} nested", "def f():\n    from secret.core import x"
        ),
        "test/test_string.py": _module(f"{SECRET} string", "m = import_module('secret.core')"),
        "pydoc_data/topics.py": "topics = {'first': 'About the first topic.'}\n",
        "site-packages/other.py": _module("other"),
        "_sysconfigdata_x.py": _module("build"),
    }
    for path, text in texts.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    (root / "latin.py").write_bytes("x = 'é'\n".encode("latin-1"))
    return root


@pytest.fixture
def documents(library):
    return corpus.collect(library, reserved=frozenset({"secret"}), train_shards=2, heldout_shards=1)


# --- documents and splits


def test_takes_only_utf8_python_that_parses_and_is_new(documents):
    code = {item.path for item in documents if item.domain == "code"}
    assert code == {
        "alpha.py",
        "half.py",
        "user.py",
        "secret/__init__.py",
        "secret/core.py",
        "test/test_alpha.py",
        "test/test_secret_parts.py",
        "test/test_nested.py",
        "test/test_string.py",
    }


def test_reserved_modules_and_their_tests_are_never_written(documents, tmp_path):
    reserved = {item.path for item in documents if item.split == "reserved"}
    assert {path.removesuffix("#doc") for path in reserved} == {
        "secret/__init__.py",
        "secret/core.py",
        "secret/README.txt",
        "test/test_secret_parts.py",
        "test/test_nested.py",
        "test/test_string.py",
    }
    corpus.write_documents(documents, tmp_path / "out")
    written = "".join(file.read_text("utf-8") for file in (tmp_path / "out").rglob("*.jsonl"))
    assert PROSE.format("alpha") in written
    assert SECRET not in written


def test_user_of_a_reserved_module_outside_the_tests_stays():
    assert not sources.is_reserved("http/client.py", {"email"}, frozenset({"email"}))
    assert sources.is_reserved("test/test_httplib.py", {"email"}, frozenset({"email"}))
    assert not sources.is_reserved("test/test_emailish.py", {"os"}, frozenset({"email"}))
    assert sources.is_reserved("emailpkg/test/_test_email.py", {"os"}, frozenset({"email"}))


def test_english_holds_docstrings_comments_topics_and_the_licence_once(documents):
    english = {item.path: item.text for item in documents if item.domain == "english"}
    assert PROSE.format("comment one") + "\nand a second line" in english["alpha.py#doc"]
    assert english["pydoc_data/topics.py#first"] == "About the first topic."
    assert english["LICENSE.txt"] == "You may use this library.\n"
    assert "half.py#doc" not in english
    assert sum(text.count(PROSE.format("alpha")) for text in english.values()) == 1


def test_prose_is_told_from_code():
    assert sources.is_prose("The quick brown fox jumps over the lazy dog.")
    assert not sources.is_prose("x[i] = (y[j] + 17) * {'a': 3, 'b': 4}[k] - f(z)[-1]")
    assert not sources.is_prose("Too short.")


def test_docstrings_of_a_held_out_file_are_held_out(tmp_path):
    for index in range(120):
        (tmp_path / f"m{index}.py").write_text(_module(f"module {index}"), "utf-8")
    found = list(sources.library_documents(tmp_path, frozenset()))
    split = {item.path: item.split for item in found}
    held = {path for path, name in split.items() if name == "heldout" and "#" not in path}
    assert 0 < len(held) < 20
    assert {path for path, name in split.items() if name == "heldout" and "#" in path} == {
        f"{path}#doc" for path in held
    }


def test_builtin_docs_are_texts_of_the_module_itself():
    texts = sources.builtin_docs("math")
    assert any("square root" in text for text in texts)
    assert any("Append object to the end" in text for text in sources.builtin_docs("builtins"))


def test_committed_manifest_keeps_its_promises():
    manifest = corpus.Manifest.from_json(corpus.MANIFEST_PATH.read_text("utf-8"))
    totals = manifest.totals()
    code = sum(totals["code"].values())
    assert totals["code"]["reserved"] >= 0.15 * code
    for splits in totals.values():
        assert 0.03 <= splits["heldout"] / (splits["train"] + splits["heldout"]) <= 0.045
    reserved = sources.read_reserved()
    for row in manifest.documents:
        if row.path.split("/")[0].removesuffix("#doc").removesuffix(".py") in reserved:
            assert row.split == "reserved", row.path
        if row.split != "reserved" and row.domain != "templates" and row.path != "LICENSE.txt":
            path = (
                row.path if row.path.startswith(sources.TOPICS) else row.path.removesuffix("#doc")
            )
            assert sources.is_heldout(path) == (row.split == "heldout"), row.path
    generated = {row.path: row for row in manifest.documents if row.domain == "templates"}
    for seed in (0, corpus.TRAIN_SHARDS - 1):
        text = "".join(templates.shard(seed)).encode()
        assert generated[f"templates/{seed:07d}"].sha256 == hashlib.sha256(text).hexdigest()


@pytest.mark.slow
def test_this_library_equals_the_manifest_or_is_reported():
    committed = corpus.Manifest.from_json(corpus.MANIFEST_PATH.read_text("utf-8"))
    here = corpus.describe(corpus.collect())
    if platform.python_version() == committed.python:
        assert corpus.differences(committed, here) == []
    else:
        assert f"this is Python {platform.python_version()}" in corpus.report(committed, here)


def test_manifest_survives_json_and_names_differences(documents):
    manifest = corpus.describe(documents, tokenizer_sha256="ab")
    assert corpus.Manifest.from_json(manifest.to_json()) == manifest
    assert corpus.differences(manifest, manifest) == []
    changed = [
        corpus.Document(path=item.path, domain=item.domain, split=item.split, parts=("other",))
        if item.path == "alpha.py"
        else item
        for item in documents
        if item.path != "user.py"
    ]
    lines = corpus.differences(manifest, corpus.describe(changed, tokenizer_sha256="cd"))
    assert len(lines) == 3
    assert lines[0].startswith("code alpha.py: committed ")
    assert lines[1:] == ["code user.py: missing here", "tokenizer.json: another hash"]
    assert "code user.py: not in the committed corpus" in corpus.differences(
        corpus.describe(changed), manifest
    )


def test_another_python_is_told_plainly(documents):
    here = corpus.describe(documents)
    there = corpus.Manifest(python="3.0.1", tokenizer_sha256="", documents=here.documents)
    text = corpus.report(there, here)
    assert "NOT the committed one" in text
    assert "made with Python 3.0.1" in text
    assert corpus.report(here, here).startswith("The corpus equals the committed manifest")


def test_command_line(documents, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpus, "MANIFEST_PATH", tmp_path / "manifest.json")
    monkeypatch.setattr(corpus, "collect", lambda: documents)
    assert corpus.main(["--check", "--write-manifest"]) == 0
    assert "equals the committed manifest" in capsys.readouterr().out
    monkeypatch.setattr(corpus, "collect", lambda: documents[1:])
    assert corpus.main(["--check"]) == 1
    assert f"{documents[0].path}: missing here" in capsys.readouterr().out
    assert corpus.main(["--out", str(tmp_path / "out")]) == 2
    assert "of 4096 entries" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        corpus.main([])


def test_yardstick_commands(tmp_path, capsys):
    out = tmp_path / "corpus"
    made = [
        corpus.Document(path=split, domain=domain, split=split, parts=(f"{domain} text\n",))
        for split in files.SPLITS
        for domain in files.DOMAINS
    ]
    corpus.write_documents(made, out)
    for command in (ngram.main, compress.main):
        assert command(["--corpus", str(out)]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["domain"] for row in rows] == ["code", "english", "templates", "all"]
        assert command(["--corpus", str(tmp_path)]) == 2
        assert "experiments.nano.corpus --out" in capsys.readouterr().err


# --- templates


def test_generated_texts_are_the_same_everywhere():
    text = "\0".join(templates.shard(0, 50)).encode()
    assert hashlib.sha256(text).hexdigest() == SHARD_HASH


SHARD_HASH = "25ddf1e110e38e27538ae52c98a833dd230617d7e8664a7f62d34fce9143439a"


def _turns(text: str) -> list[tuple[str, str]]:
    if text.startswith(templates.USER):
        pattern = r"<\|user\|>(.*?)<\|end\|><\|assistant\|>(.*?)<\|end\|>"
        return re.findall(pattern, text, re.DOTALL)
    return re.findall(r"Q: (.*?)\nA: (.*?)\n(?=\nQ: |\Z)", text, re.DOTALL)


def _all_turns() -> list[tuple[str, str]]:
    return [turn for seed in range(3) for text in templates.shard(seed) for turn in _turns(text)]


def test_every_equation_holds():
    equation = re.compile(r"(\d+(?: [-+*] \d+)+) = (\d+)")
    found = [match for _, said in _all_turns() for match in equation.findall(said)]
    assert len(found) > 500
    for left, right in found:
        first, *rest = re.findall(r"[-+*]? ?\d+", left)
        value = int(first)
        for term in rest:
            sign, number = term.split()
            value = {"+": value + int(number), "-": value - int(number), "*": value * int(number)}[
                sign
            ]
        assert value == int(right), left


def test_every_asked_sum_is_answered():
    checked = 0
    for asked, said in _all_turns():
        match = re.search(r"(\d+) ([-+*]) (\d+)", asked)
        if match:
            a, sign, b = int(match[1]), match[2], int(match[3])
            value = {"+": a + b, "-": a - b, "*": a * b}[sign]
            assert said.endswith(f"{a} {sign} {b} = {value}.")
            checked += 1
    assert checked > 200


def test_lists_and_json_are_answered_rightly():
    kinds = collections.Counter()
    for asked, said in _all_turns():
        task, _, text = asked.partition(": ")
        items = text.split(", ")
        if task.startswith("Repeat these"):
            assert said == text
        elif task.startswith("Reverse these"):
            assert said.split(", ") == items[::-1]
        elif task.startswith("Sort these"):
            assert said.split(", ") == sorted(items, key=int if "numbers" in task else str)
        elif "Python list" in task:
            assert [str(item) for item in ast.literal_eval(said)] == items
        elif task == "Write as JSON":
            record = json.loads(said)
            assert all(str(value) in text for value in record.values())
        elif task == "Write as a sentence":
            assert all(str(value) in said for value in json.loads(text).values())
        elif asked.startswith("Write a ") and "function" in asked:
            compile(said, "answer", "exec")
        else:
            continue
        kinds[" ".join(task.split()[:2])] += 1
    assert len(kinds) >= 5
    assert min(kinds.values()) > 10


def test_held_out_templates_repeat_no_training_text():
    found = list(corpus.template_documents(4, 2))
    train = {text for item in found if item.split == "train" for text in item.parts}
    heldout = [text for item in found if item.split == "heldout" for text in item.parts]
    assert len(train) > 600
    assert len(heldout) > 300
    assert train.isdisjoint(heldout)


# --- tokenizer and token files


@pytest.fixture(scope="module")
def fast(built):
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(built[0] / "tokenizer" / "tokenizer.json"))


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=80))
def test_every_text_survives_encoding(fast, text):
    assert fast.decode(fast.encode(text).ids, skip_special_tokens=False) == text


def test_special_ids_digits_and_indentation(fast):
    assert fast.get_vocab_size() == 512
    assert [fast.token_to_id(text) for text in tokenizer.SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert [len(text.lstrip("Ġ")) for text in fast.encode("2024 1789").tokens] == [1] * 8
    pieces = [
        piece for piece, _ in fast.pre_tokenizer.pre_tokenize_str("if x:\n        y()\n\n\nz")
    ]
    assert pieces == ["if", "Ġx", ":", "ĊĠĠĠĠĠĠĠ", "Ġy", "()", "ĊĊĊ", "z"]


def test_vocabulary_has_exactly_4096_entries_and_is_reproducible(tmp_path):
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    text = " ".join("".join(rng.choice(letters, size=6)) for _ in range(8000)) + "\n"
    digests = []
    for name in ("one", "two"):
        for split in files.SPLITS:
            for domain in files.DOMAINS:
                line = json.dumps({"path": "p", "text": text}) + "\n"
                files.write_bytes(tmp_path / name / split / f"{domain}.jsonl", line.encode())
        digests.append(tokenizer.train_tokenizer(tmp_path / name))
    assert digests[0] == digests[1]
    assert tokenizer.byte_lengths(tmp_path / "one").shape == (4096,)


def test_too_little_text_for_the_vocabulary_is_refused(built):
    with pytest.raises(ConfigError, match="of 100000 entries"):
        tokenizer.train_tokenizer(built[0], vocab_size=100000)


def test_token_files_hold_the_documents_between_boundaries(built, fast):
    out, made, manifest = built
    lengths = tokenizer.byte_lengths(out)
    assert np.array_equal(lengths, np.load(out / "tokens" / "byte_lengths.npy"))
    for split in files.SPLITS:
        for domain in files.DOMAINS:
            ids = tokenizer.tokens(out, split, domain)
            assert isinstance(ids, np.memmap)
            assert ids.dtype == np.uint16
            assert ids[0] == ids[-1] == 0
            ends = np.flatnonzero(ids == 0)
            parts = [
                fast.decode(ids[start + 1 : stop].tolist(), skip_special_tokens=False)
                for start, stop in itertools.pairwise(ends)
            ]
            wanted = [
                text
                for item in made
                if (item.split, item.domain) == (split, domain)
                for text in item.parts
            ]
            assert parts == wanted
            assert lengths[ids].sum() == manifest.totals()[domain][split]
    joined = tokenizer.tokens(out, "heldout")
    assert joined.size == sum(tokenizer.tokens(out, "heldout", name).size for name in files.DOMAINS)


def test_missing_corpus_and_unwritable_folder_are_typed_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"experiments\.nano\.corpus --out"):
        tokenizer.tokens(tmp_path, "train", "code")
    with pytest.raises(ConfigError, match="train, heldout"):
        list(files.read_documents(tmp_path, "test", "code"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        files.write_bytes(tmp_path / "file" / "below" / "x", b"")


@pytest.mark.hf
def test_transformers_reads_the_tokenizer_and_its_chat_template(built, fast):
    import transformers

    auto = transformers.AutoTokenizer.from_pretrained(built[0] / "tokenizer")
    text = "def f(x):\n    return  x , 17\n"
    assert auto.encode(text) == fast.encode(text).ids
    assert auto.decode(auto.encode(text)) == text
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (0, 0, 1)
    turns = [("What is 1 + 1?", "1 + 1 = 2."), ("Thanks!", "You are welcome.")]
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    written = auto.apply_chat_template(messages, tokenize=False)
    assert written == "<|endoftext|>" + templates.chat(turns)
    opened = auto.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert written.startswith(opened)
    assert opened.endswith("<|end|><|assistant|>")
    with pytest.raises(Exception, match="unknown role system"):
        auto.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


# --- Kneser-Ney


class SlowKneserNey:
    """The same model with dictionaries, straight from the formulas."""

    def __init__(self, documents, order):
        self.order = order
        counts = collections.Counter()
        for document in documents:
            symbols = ["start"] * (order - 1) + list(document)
            for end in range(order, len(symbols) + 1):
                counts[tuple(symbols[end - order : end])] += 1
        self.counts = {order: counts}
        for length in range(order - 1, 0, -1):
            before = collections.defaultdict(set)
            for gram in self.counts[length + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[length] = {gram: len(seen) for gram, seen in before.items()}

    def discount(self, length, count):
        n = {k: sum(c == k for c in self.counts[length].values()) for k in (1, 2, 3, 4)}
        k = min(count, 3)
        if all(n.values()):
            ratio = n[1] / (n[1] + 2 * n[2])
            three = [j - (j + 1) * ratio * n[j + 1] / n[j] for j in (1, 2, 3)]
            if all(0 < value < j for j, value in enumerate(three, start=1)):
                return three[k - 1]
        return n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5

    def probability(self, context, byte, length=None):
        length = self.order if length is None else length
        if length == 0:
            return 1 / 256
        lower = self.probability(context[1:], byte, length - 1)
        following = {g: c for g, c in self.counts[length].items() if g[:-1] == context}
        if not following:
            return lower
        total = sum(following.values())
        count = following.get((*context, byte), 0)
        share = count - self.discount(length, count) if count else 0.0
        backoff = sum(self.discount(length, c) for c in following.values())
        return share / total + backoff / total * lower


def _text(seed: int, size: int, letters: bytes = b"aab bc\n") -> bytes:
    return bytes(np.random.default_rng(seed).choice(list(letters), size=size).tolist())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_equals_the_dictionary_oracle(order):
    training = [_text(0, 400), b"", _text(1, 150, bytes(range(0, 256, 5))), b"a"]
    model = ngram.fit(training, order)
    slow = SlowKneserNey(training, order)
    for document in (_text(2, 25), b"\x00\xffabc", b"z"):
        symbols = ["start"] * (order - 1) + list(document)
        expected = [
            -math.log2(slow.probability(tuple(symbols[i : i + order - 1]), byte))
            for i, byte in enumerate(document)
        ]
        np.testing.assert_allclose(ngram.document_bits(model, document), expected, rtol=1e-10)


def test_three_discounts_are_used_where_the_counts_allow():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 20, 12, 8, 5])
    found = ngram.discounts(counts)
    assert found == pytest.approx([0.0, 0.5, 2 - 3 * 0.5 * 12 / 20, 3 - 4 * 0.5 * 8 / 12])
    assert ngram.discounts(np.array([7, 7, 7])).tolist() == [0.0, 0.5, 0.5, 0.5]
    assert ngram.discounts(np.array([1, 1, 2])).tolist() == [0.0, 0.5, 0.5, 0.5]


def test_probabilities_are_positive_and_sum_to_one_seen_or_not():
    source = "".join(templates.shard(5, 60)).encode()
    model = ngram.fit([source, _text(3, 300)])
    rng = np.random.default_rng(4)
    seen = [source[: int(rng.integers(0, len(source)))] for _ in range(50)]
    unseen = [rng.bytes(int(rng.integers(0, 9))) for _ in range(50)]
    for context in seen + unseen:
        found = ngram.distribution(model, context)
        assert found.min() > 0
        assert abs(found.sum() - 1) < 1e-9


def test_documents_start_afresh_and_bits_follow_the_distribution():
    model = ngram.fit([b"abcabcabe", b"xabc"], 3)
    bits = ngram.document_bits(model, b"abe")
    for index, byte in enumerate(b"abe"):
        expected = -np.log2(ngram.distribution(model, b"abe"[:index])[byte])
        assert bits[index] == pytest.approx(expected, rel=1e-12)
    assert ngram.document_bits(model, b"a")[0] == bits[0]


@pytest.mark.parametrize("order", [0, 8])
def test_order_that_does_not_fit_is_refused(order):
    with pytest.raises(ConfigError, match=f"order {order}: allowed are 1 to 7"):
        ngram.fit([b"abc"], order)


def test_no_text_is_refused():
    with pytest.raises(ConfigError, match="0 bytes"):
        ngram.fit([b"", b""])


# --- xz


def test_xz_equals_the_preset_of_the_command_line_tool():
    data = "".join(templates.shard(6, 30)).encode()
    assert compress.xz_size(data) == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_priming_pays_for_repeated_text_and_not_for_noise():
    known, noise = _text(7, 4000, bytes(range(256))), _text(8, 4000, bytes(range(256)))
    rows = compress.compare(known, {"repeat": [known[:2000], known[2000:]], "noise": [noise]})
    assert rows["repeat"]["primed"] < 0.2
    assert rows["repeat"]["concatenated"] > 8
    assert rows["noise"]["primed"] > 7.9
    assert rows["repeat"]["per_file"] > rows["repeat"]["concatenated"]
    assert rows["all"]["bytes"] == 8000
    expected = 8 * compress.xz_size(known + noise) / 8000
    assert rows["all"]["concatenated"] == pytest.approx(expected)


def test_domain_without_text_is_refused():
    with pytest.raises(ConfigError, match="domain english has 0 held-out bytes"):
        compress.compare(b"abc", {"english": []})
