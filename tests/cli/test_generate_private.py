"""`ariel-jax generate-private`: in seconds on a toy model, under a budget beside the demonstrations."""

import json
import stat

import pytest

from ariel_jax.cli import main
from ariel_jax.privacy import Ledger
from ariel_jax.testing import write_toy_checkpoint

FORMAT = {"demonstration": "{input}>{output};", "query": "{input}>", "text": "T{text};", "stop": []}
FIXED = ["--sampler", "without_replacement"]  # few rows, always as many


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy model."""
    folder = tmp_path_factory.mktemp("private") / "toy"
    write_toy_checkpoint(folder, n_layers=1)
    return folder


@pytest.fixture
def words(toy, tmp_path):
    """The command with its fixed flags; forty demonstrations beside."""
    rows = [{"input": f"a{i}", "output": f"b{i}"} for i in range(40)]
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "format.json").write_text(json.dumps(FORMAT))

    def command(*more, demos="demos.jsonl"):
        fixed = ["--max-new", 5, "--max-demo-tokens", 12, "--epsilon", 2, "--delta", 1e-3]
        fixed += ["--shots", 2, "--redraw-every", 3, "--format", tmp_path / "format.json"]
        flags = ["--model", toy, "--demos", tmp_path / demos, *fixed, *more]
        return ["generate-private", *map(str, flags)]

    return command


def spent(tmp_path):
    with Ledger(tmp_path / "demos.jsonl.ledger.sqlite") as ledger:
        return ledger.epsilon(), len(ledger.open_tickets()), ledger.report()["void"]


def test_a_query_is_answered_paid_for_and_explained(words, tmp_path, capsys):
    (tmp_path / "reports").mkdir()
    page, body = tmp_path / "reports" / "report.md", tmp_path / "report.json"
    # What a run that was killed as it made its ledger leaves behind.
    (tmp_path / "demos.jsonl.ledger.sqlite").touch(mode=0o600)
    assert main.main(words("--query", "q", "--report", page)) == 0
    said = capsys.readouterr()
    assert "each of 40 demonstrations by a coin of 0.05, drawn anew after 3 tokens" in said.err
    assert "[1/1] " in said.err
    assert (
        "can tell this data set from one in which one demonstration counts as nothing" in said.err
    )
    assert "(zero_out), paid by" in said.err
    assert "not covered: the number of demonstrations" in said.err
    assert "warning: 40 demonstrations are few" in said.err
    assert "h = " in said.err
    assert "not covered: the queries, the instruction" in said.err
    assert "## It does not cover" in page.read_text()
    first, tickets, void = spent(tmp_path)
    assert 0 < first <= 2
    assert (tickets, void) == (0, [])
    ledger = tmp_path / "demos.jsonl.ledger.sqlite"
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    # The account is the file's: another run wants as much again, and is refused before anything runs.
    assert main.main(words("--query", "q")) == 2
    said = capsys.readouterr()
    assert "No demonstration was looked at" in said.err
    assert said.out == ""
    assert spent(tmp_path)[0] == first
    assert main.main(words("--query", "q", "--delta", "1e-4")) == 2
    assert "Terms never change" in capsys.readouterr().err
    # Without demonstrations it goes on.
    more = ["--on-exhausted", "public", "--json", "--report", body]
    assert main.main(words("--query", "q", *more)) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["is_private"] is False
    assert "No demonstration was used" in said.err
    report = json.loads(body.read_text())
    # Nothing was reserved, for none of the queries.
    assert (report["public_queries"], report["queries"], report["planned_queries"]) == (1, 0, 0)
    assert spent(tmp_path)[0] == first


def test_a_public_bound_hides_how_many_demonstrations_there_are(words, tmp_path, capsys):
    """One more or less (add_remove): what is printed, written and paid is a function of the bound."""
    page = tmp_path / "report.json"
    said, prices = [], []
    for n in (41, 57):
        rows = [{"input": f"a{i % 7}", "output": f"b{i % 7}"} for i in range(n)]
        (tmp_path / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        about = ["--query", "q", "--demos-about", 60, "--report", page]
        assert main.main(words(*about)) == 0
        err = capsys.readouterr().err
        assert not {str(n), f"{n}."} & set(err.split())
        assert "not covered: the number of demonstrations" not in err
        assert "not covered: time and memory of reading all demonstrations" in err
        said.append(err.split("[1/1]")[0])  # how long the answer was is chance
        assert "with one demonstration more or less" in json.loads(page.read_text())["guarantee"]
        with Ledger(tmp_path / "demos.jsonl.ledger.sqlite") as ledger:
            assert ledger.terms.relation == "add_remove"
            events = ledger.history()
        prices.append([event.body for event in events if event.kind == "reserved"])
        (tmp_path / "demos.jsonl.ledger.sqlite").unlink()
    assert said[0] == said[1]
    assert prices[0] == prices[1]
    assert len(prices[0]) == 1
    assert "each of 60 demonstrations by a coin" in said[0]


def test_several_queries_share_a_budget_of_several_runs(words, tmp_path, capsys):
    (tmp_path / "queries.txt").write_text("one\n\ntwo\n")
    flags = ["--queries", tmp_path / "queries.txt", "--budget", 5, *FIXED]
    for _ in range(2):
        assert main.main(words(*flags)) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["query"] for row in rows] == ["one", "two"]
        assert all(row["is_private"] and len(row["tokens"]) <= 5 for row in rows)
    assert 2 < spent(tmp_path)[0] <= 5


def test_demonstrations_are_written_anew(words, tmp_path, capsys):
    rows = [{"text": f"e{i}", "owner": i // 2} for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--synthesize", 2, "--store", "none"]
    assert main.main(words(*flags, demos="texts.jsonl")) == 2
    assert "20 owners have several demonstrations" in capsys.readouterr().err
    assert main.main(words(*flags, "--sample-owners", demos="texts.jsonl")) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert f"{len(rows)} of 2 texts have all parts" in said.err
    assert all(set(row) == {"text"} and row["text"] for row in rows)
    assert "each of 20 owners by a coin of 0.1 with one demonstration each" in said.err
    assert "everything but one owner with all demonstrations that name it" in said.err
    assert "in which one owner counts as nothing" in said.err
    assert "warning: 20 owners are few" in said.err
    assert "not covered: the number of owners" in said.err
    assert "several demonstrations of one person" not in said.err
    with Ledger(tmp_path / "texts.jsonl.ledger.sqlite") as ledger:
        assert ledger.terms.account == f"{tmp_path / 'texts.jsonl'} by owner"


def test_a_seed_repeats_the_text_and_marks_the_account(words, tmp_path, capsys):
    texts = []
    for _ in range(2):
        assert main.main(words("--query", "q", "--insecure-seed", 3, "--budget", 9, *FIXED)) == 0
        said = capsys.readouterr()
        texts.append(said.out)
        assert "NOT PRIVATE" in said.err
    assert texts[0] == texts[1]
    assert len(spent(tmp_path)[2]) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--contract", "renyi_linear", "--pool", "arithmetic"],
            "order 16 (renyi_linear, arithmetic)",
        ),
        (["--contract", "renyi", "--alpha", 12], "order 12 (renyi, product)"),
        (["--contract", "clip"], "(clip, product)"),
    ],
)
def test_contract_and_pool_are_those_that_were_asked_for(words, tmp_path, capsys, flags, said):
    body = tmp_path / "report.json"
    assert main.main(words("--query", "q", "--report", body, *flags)) == 0
    assert said in capsys.readouterr().err
    report = json.loads(body.read_text())
    contract, pool = said.split("(")[1].rstrip(")").split(", ")
    assert report["mechanism"] == f"contract {contract}, pool {pool}"
    assert (report["h"] is None) == (contract != "clip")
    assert 0 < report["epsilon"] <= 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "0 of --query, --queries and --synthesize"),
        (["--query", "q", "--synthesize", 1], "2 of --query"),
        (["--queries", "NONE.txt"], "cannot read queries"),
        (["--query", "q", "--epsilon", 0], "epsilon=0"),
        (["--query", "q", "--delta", 0.1], "for 40 demonstrations"),
        (["--query", "q", "--max-new", 0], "max_new=0"),
        (["--query", "q", "--max-new", 200], "128 positions"),
        (["--query", "q", "--max-demo-tokens", 3], "demonstration 1 has more than"),
        (["--query", "q", "--demos-about", 39], "below the number of demonstrations"),
        (["--query", "q", "--sampler", "partition", "--demos-about", 50], "--sampler partition"),
        (["--query", "q", "--sampler", "partition", "--redraw-every", 2], "redraw_every=2"),
        (["--query", "q", "--temperature", 0], "temperature=0"),
        (["--query", "q", "--contract", "nearest"], "nearest"),
        (["--query", "q", "--pool", "arithmetic"], "'scale' with pool='arithmetic'"),
        (["--query", "q", "--alpha", 8], "alpha=8"),
        (["--query", "q", "--contract", "renyi", "--alpha", 1], "alpha=1"),
        (["--query", "q", "--model", "NOWHERE"], "NOWHERE"),
        (["--query", ""], "the query has 0 tokens"),
    ],
)
def test_bad_input_is_a_message_and_no_reservation(words, tmp_path, capsys, flags, message):
    if flags[-1:] == [""]:
        (tmp_path / "format.json").write_text(json.dumps(FORMAT | {"query": "{input}"}))
    assert main.main(words(*flags)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    ledger = tmp_path / "demos.jsonl.ledger.sqlite"
    assert not ledger.exists() or spent(tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("NONE/report.md", "The folder does not exist"),
        ("demos.jsonl/report.md", "Not a directory"),
        (".", "is a folder"),
        ("demos.jsonl", "is the file of --demos"),
        ("demos.jsonl.ledger.sqlite", "is the file of --ledger"),
        ("format.json", "is the file of --format"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_spent(
    words, tmp_path, capsys, report, message
):
    before = (tmp_path / "demos.jsonl").read_text()
    # No model is there: the report is looked at before anything is read.
    flags = ["--query", "q", "--model", "NOWHERE", "--report", tmp_path / report]
    assert main.main(words(*flags)) != 0
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert (tmp_path / "demos.jsonl").read_text() == before
    assert not (tmp_path / "demos.jsonl.ledger.sqlite").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("demos.jsonl", "", "holds no demonstrations"),
        ("demos.jsonl", '{"input": "SECRET"}', "line 1 is no demonstration"),
        ("demos.jsonl", r'{"text": "SECRET \ud800"}', "line 1 is no demonstration"),
        ("demos.jsonl", "[" * 100_000, "line 1 is no demonstration"),
        ("format.json", "{", "is no JSON"),
        ("format.json", "[" * 100_000, "is nested too deeply"),
        ("format.json", r'{"query": "{input}\ud800"}', "has no UTF-8 form"),
        ("format.json", '{"prompt": "x"}', "is no format"),
        ("format.json", '{"stop": "x"}', "is no format"),
        ("format.json", '{"query": "x"}', r"lacks {input}"),
    ],
)
def test_bad_files_are_named(words, tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert main.main(words("--query", "q")) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "SECRET" not in said
    assert "Traceback" not in said
    assert not (tmp_path / "demos.jsonl.ledger.sqlite").exists()
