"""`ariel-jax generate`, in this process, on a toy checkpoint."""

import dataclasses
import io
import json
import types

import pytest

from ariel_jax import decode, measure
from ariel_jax.cli import generate as command
from ariel_jax.cli import main as cli
from ariel_jax.cli import self_drafting
from ariel_jax.decode.traffic import bytes_per_step
from ariel_jax.models.hf import save_pretrained
from ariel_jax.pallas_kernels import native
from ariel_jax.testing import write_toy_checkpoint


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "toy"
    return folder, write_toy_checkpoint(folder)


@pytest.fixture
def call(toy, monkeypatch, capsys):
    """Runs the command; returns status, stdout and stderr."""
    monkeypatch.setattr(cli, "_start_jax", lambda platform: None)
    monkeypatch.setattr("warnings.showwarning", cli._show_warning)
    ceilings = types.SimpleNamespace(read_bytes_per_s=1e9)
    monkeypatch.setattr(measure, "ceilings", lambda: ceilings)

    def run(*arguments, stdin="", is_terminal=False):
        source = io.StringIO(stdin) if isinstance(stdin, str) else stdin
        source.isatty = lambda: is_terminal
        monkeypatch.setattr("sys.stdin", source)
        status = cli.main(["generate", "--model", str(toy[0]), "--max-new", "12", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def text_of(model, prompt, **options):
    return decode.generate(model, prompt, max_new=12, **options).texts[0]


def test_streamed_text_is_that_of_the_library_and_one_line_tells_the_cost(call, toy):
    status, out, err = call("to be", "--stream-every", "3")
    assert status == 0
    assert out == text_of(toy[1], "to be") + "\n"
    (line,) = err.splitlines()
    for part in ("12 tokens | ", "tokens/s", "ms/token", "prefill", "read bandwidth", "0 growths",
                 "compile", "cache"):  # fmt: skip
        assert part in line
    assert call("to be", "--no-stream")[1] == out


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("they were built for other sources; run: ariel-jax kernels build", 1),
        (native.NOT_BUILT, 0),
        (None, 0),
    ],
)
def test_stale_kernels_are_told_and_missing_ones_are_not(call, monkeypatch, reason, said):
    monkeypatch.setattr(native, "why_not", lambda: reason)
    _, _, err = call("to be")
    assert err.count("native kernels are not used") == said
    assert err.count("run: ariel-jax kernels build") == said


def test_text_is_printed_before_decoding_ends(call, toy, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "_print_now", lambda request, text: seen.append(text))
    call("to be", "--stream-every", "2")
    assert len(seen) > 1
    assert "".join(seen) == text_of(toy[1], "to be")


def test_prompt_from_argument_flag_file_and_stdin_are_the_same(call, tmp_path):
    (tmp_path / "p.txt").write_text("to be", encoding="utf-8")
    texts = {
        call("to be")[1],
        call("--prompt", "to be")[1],
        call("--file", str(tmp_path / "p.txt"))[1],
        call(stdin="to be")[1],
    }
    assert len(texts) == 1


def test_json_holds_the_completion_and_the_report(call, toy):
    status, out, err = call("to be", "--json")
    (line,) = out.splitlines()
    found = json.loads(line)
    assert status == 0
    assert err == ""
    assert found["text"] == text_of(toy[1], "to be")
    assert found["index"] == 0
    assert len(found["tokens"]) == 12
    cost = found["report"]
    model = toy[1]
    per_step = bytes_per_step(model.cfg, model.params, [found["n_prompt"] + 6])
    assert cost["read_share"] == pytest.approx(per_step / cost["s_per_step"] / 1e9)
    assert cost["new_tokens"] == 12
    cfg = model.cfg  # keys and values of every layer and head, 64 rows, float32
    assert cost["cache_bytes"] == 2 * cfg.n_layers * cfg.n_kv_heads * 64 * cfg.head_dim * 4


def test_lines_are_prompts_of_one_batch(call, toy):
    _, out, _ = call(
        "--lines", "--json", "--seed", "5", "--temperature", "1", stdin="to\n\nbe or\n"
    )
    found = [json.loads(line) for line in out.splitlines()]
    assert [f["index"] for f in found] == [0, 1]
    alone = decode.SamplingParams(temperature=1.0, seed=6)
    assert found[1]["text"] == text_of(toy[1], "be or", sampling=alone)


def test_chat_uses_the_template_once(call, toy):
    model = toy[1]
    ids = model.tokenizer.encode_chat([{"role": "user", "content": "to be"}])
    found = json.loads(call("to be", "--chat", "--json")[1])
    assert found["n_prompt"] == len(ids)
    assert found["text"] == decode.generate(model, [ids], max_new=12).texts[0]


def test_sampling_flags_arrive(call, toy):
    flags = ("--temperature", "0.7", "--top-k", "9", "--top-p", "0.9", "--min-p", "0.01",
             "--repetition-penalty", "1.3", "--min-new", "4", "--seed", "3")  # fmt: skip
    sampling = decode.SamplingParams(
        temperature=0.7, top_k=9, top_p=0.9, min_p=0.01, repetition_penalty=1.3, min_new=4, seed=3
    )
    assert call("to be", *flags)[1] == text_of(toy[1], "to be", sampling=sampling) + "\n"


def test_stop_and_ignore_eos_arrive(call, toy):
    whole = text_of(toy[1], "to be", ignore_eos=True)
    stop = whole[4:6]
    _, out, _ = call("to be", "--ignore-eos", "--stop", "never", "--stop", stop)
    assert out == whole[: whole.index(stop)] + "\n"


def test_drafts_change_the_cost_not_the_text(call):
    prompt = ("to be to be to be", "--ignore-eos", "--max-new", "80")
    _, plain, _ = call(*prompt)
    _, drafted, line = call(*prompt, "--strategy", "ngram:3", "--capacity", "doubling")
    assert drafted == plain
    assert "ms/step" in line
    assert "drafts held" in line


def test_a_draft_model_changes_the_cost_not_the_text(call, toy, tmp_path):
    write_toy_checkpoint(tmp_path / "small", n_layers=1, seed=4)
    prompt = ("to be to be to be", "--ignore-eos", "--max-new", "60")
    _, plain, _ = call(*prompt)
    draft = ("--strategy", "draft:2", "--draft-model", str(tmp_path / "small"))
    _, drafted, line = call(*prompt, *draft, "--capacity", "doubling", "--compile-ahead")
    assert drafted == plain
    assert "drafts held" in line
    save_pretrained(toy[1], tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    status, _, err = call("a", "--strategy", "draft", "--draft-model", str(tmp_path / "mute"))
    assert (status, "tokenizer.json" in err) == (2, True)


def test_drafts_of_its_own_layers_change_the_cost_not_the_text(call, monkeypatch):
    monkeypatch.setattr(self_drafting, "profile_store", lambda: None)
    prompt = ("to be to be to be", "--ignore-eos", "--max-new", "60")
    _, plain, _ = call(*prompt)
    flags = ("--strategy", "del:2", "--exits", "1", "--costs", "layers", "--live")
    _, drafted, err = call(*prompt, *flags)
    assert drafted == plain
    assert "do not pay here" in err, "the weights are random"
    assert "no draft next" in err
    _, drafted, err = call(*prompt, *flags, "--controller", "fixed")
    assert drafted == plain
    assert "next exit 1 | 2.0 drafts a round" in err
    assert err.count("tokens per layer load (plain 0.500)") >= 3, "live, and at the end"
    status, out, _ = call(*prompt, "--strategy", "del:2", "--exits", "1", "--json")
    found = json.loads(out)
    assert (status, found["text"]) == (0, plain[:-1])
    told = found["report"]["del"]
    assert told["rounds"] >= 20
    assert set(told["acceptance_by_exit"]) == {"1"}
    assert 0.3 < told["tokens_per_load"] < 1.5


def test_capacity_changes_the_cost_not_the_text(call, toy):
    upfront = json.loads(call("to be", "--json", "--max-new", "80")[1])
    grown = json.loads(call("to be", "--json", "--max-new", "80", "--capacity", "arithmetic:16")[1])
    assert grown["tokens"] == upfront["tokens"]
    assert (upfront["report"]["growths"], upfront["report"]["capacity"]) == (0, 128)
    _, out, _ = call("to be", "--max-new", "100", "--json", "--capacity", "table:40,70,128")
    table = json.loads(out)
    assert table["tokens"][:12] == upfront["tokens"][:12]
    assert (table["report"]["growths"], table["report"]["capacity"]) == (2, 128)
    assert grown["report"]["growths"] >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--prompt", "b"), "more than once"),
        (("",), "the prompt is empty"),
        (("a", "--lines"), "pass --json"),
        (("--file", "/does/not/exist"), "No such file"),
        (("a", "--strategy", "clever"), "autoregressive"),
        (("a", "--strategy", "ngram:x"), "ngram[:DRAFTS]"),
        (("a", "--strategy", "autoregressive:3"), "ngram[:DRAFTS]"),
        (("a", "--strategy", "draft"), "needs a draft model"),
        (("a", "--draft-model", "nano"), "needs a draft model"),
        (("a", "--exits", "1"), "--exits with --strategy autoregressive"),
        (("a", "--strategy", "ngram", "--costs", "layers"), "belong to --strategy del"),
        (("a", "--strategy", "del:x"), "del[:DRAFTS]"),
        (("a", "--strategy", "del:32"), "max_draft=32"),
        (("a", "--strategy", "del", "--exits", "2,1"), "rising"),
        (("a", "--strategy", "del", "--exits", "one"), "rising, as in 1,2,4,8"),
        (("a", "--strategy", "del", "--exits", "2"), "2 layers"),
        (
            (
                "a",
                "--strategy",
                "del:1",
                "--exits",
                "1",
                "--costs",
                "layers",
                "--verifier",
                "greedy",
                "--temperature",
                "1",
            ),
            "'greedy'",
        ),
        (("a", "--capacity", "sqrt:3"), "doubling, sqrt"),
        (("a", "--capacity", "arithmetic:x"), "arithmetic[:ROWS]"),
        (("a", "--capacity", "arithmetic:0"), "r=0"),
        (("a", "--capacity", "upfront:8"), "below the"),
        (("a", "--temperature", "-1"), "temperature"),
        (("a", "--top-p", "0"), "top_p"),
        (("a", "--max-new", "0"), "max_new=0"),
        (("a", "--max-new", "500"), "128 positions"),
        (("a", "--model", "/does/not/exist"), "nano"),
        (("a", "--stop", ""), "empty string"),
        (("a", "--top-k", "3000000000"), "top_k=3000000000"),
        (("a", "--min-new", "3000000000"), "min_new=3000000000"),
        (("a", "--temperature", "1", "--seed", str(2**40)), "seed=1099511627776"),
        (("a", "--seed", "-1"), "seed=-1"),
        (("a", "--model", "x" * 5000), "is no folder"),
        (("a\udcff",), "not valid Unicode"),
    ],
)
def test_bad_input_is_a_message_and_status_2(call, arguments, message):
    status, out, err = call(*arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_nothing_to_read_from_a_terminal_is_said(call):
    status, _, err = call(is_terminal=True)
    assert status == 2
    assert "no prompt" in err


def test_standard_input_that_is_not_text_is_refused(call, monkeypatch):
    broken = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), "utf-8")
    status, out, err = call(stdin=broken)
    assert (status, out) == (2, "")
    assert "not UTF-8" in err
    assert "Traceback" not in err


def test_a_file_that_is_not_text_is_refused(call, tmp_path):
    (tmp_path / "p.bin").write_bytes(b"\xff\xfe\x00")
    status, _, err = call("--file", str(tmp_path / "p.bin"))
    assert status == 2
    assert "not UTF-8" in err


def test_a_model_that_makes_no_numbers_is_a_message_and_status_1(call, tmp_path):
    model = write_toy_checkpoint(tmp_path / "sound")
    nan = model.params.embed.at[:].set(float("nan"))
    broken = dataclasses.replace(model, params=model.params.replace(embed=nan))
    save_pretrained(broken, tmp_path / "broken")
    status, _, err = call("to be", "--model", str(tmp_path / "broken"), "--ignore-eos")
    assert status == 1
    assert "NaN" in err
    assert "Traceback" not in err
