import json
import pathlib

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax import testing
from ariel_jax.errors import CheckpointError, ConfigError
from ariel_jax.models.hf import tokenizer as module
from ariel_jax.models.hf.tokenizer import Tokenizer, check_vocabulary

USER = [{"role": "user", "content": "hi"}]
TOY = testing.toy_tokenizer()


def with_template(template: object, **settings: object) -> Tokenizer:
    return Tokenizer(TOY.backend, {"chat_template": template, **settings}, "here")


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_text_survives(text):
    assert TOY.decode(TOY.encode(text)) == text


def test_special_tokens_are_skipped_unless_asked_for():
    ids = [0, *TOY.encode("x"), 3]
    assert TOY.decode(ids) == "x"
    assert TOY.decode(ids, skip_special_tokens=False) == "<|endoftext|>x<|end|>"
    assert TOY.encode("<|end|>") == [3]
    assert (TOY.eos_id, TOY.special("bos_token"), TOY.special("pad_token")) == (
        0,
        "<|endoftext|>",
        None,
    )


def test_a_beginning_of_sequence_token_is_added_once():
    adding = Tokenizer(TOY.backend, TOY.settings | {"add_bos_token": True})
    assert adding.encode("x") == [0, *TOY.encode("x")]
    assert adding.encode("<|endoftext|>x") == [0, *TOY.encode("x")]
    assert adding.encode("x", add_special_tokens=False) == TOY.encode("x")
    as_object = TOY.settings | {"add_bos_token": True, "bos_token": {"content": "<|user|>"}}
    assert Tokenizer(TOY.backend, as_object).encode("x")[0] == 1
    with pytest.raises(ConfigError, match="bytes"):
        TOY.encode(b"x")  # type: ignore[arg-type]


def test_truncation_in_the_file_is_not_silent(tmp_path: pathlib.Path):
    backend = testing.toy_tokenizer().backend
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer.from_folder(tmp_path).encode("abcdefgh")) == 8


def test_text_without_a_utf8_form_is_refused():
    with pytest.raises(ConfigError, match="not valid Unicode"):
        TOY.encode("a\udcff")


def test_a_template_that_is_no_text_is_refused(tmp_path: pathlib.Path):
    TOY.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read as UTF-8"):
        Tokenizer.from_folder(tmp_path)


def test_a_damaged_tokenizer_is_refused(tmp_path: pathlib.Path):
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_folder(tmp_path)
    TOY.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="JSON object"):
        Tokenizer.from_folder(tmp_path)


def test_a_tokenizer_that_fails_on_a_text_says_so():
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="[UNK]"))
    with pytest.raises(CheckpointError, match="fails on 'b'"):
        Tokenizer(words, {}, "here").encode("b")


def test_vocabularies_must_agree_up_to_padding():
    n = TOY.vocab_size
    assert n == testing.TOY_VOCAB_SIZE
    check_vocabulary(TOY, n)
    check_vocabulary(TOY, n + module.MAX_PADDING_ROWS)
    for size in (n - 1, n + module.MAX_PADDING_ROWS + 1):
        with pytest.raises(CheckpointError, match=f"{n} tokens.*vocab_size={size}"):
            check_vocabulary(TOY, size)


def test_chat_template():
    assert TOY.render_chat(USER) == "<|endoftext|><|user|>hi<|end|><|assistant|>"
    assert TOY.render_chat(USER, add_generation_prompt=False).endswith("<|end|>")
    assert TOY.encode_chat(USER)[:2] == [0, 1]
    with pytest.raises(ConfigError, match="unknown role system"):
        TOY.render_chat([{"role": "system", "content": "x"}])
    with pytest.raises(ConfigError, match="no chat template"):
        Tokenizer(TOY.backend, {}).render_chat(USER)


def test_templates_from_a_file_and_from_a_list(tmp_path: pathlib.Path):
    TOY.backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text("file")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config"}))
    assert Tokenizer.from_folder(tmp_path).render_chat(USER) == "file"
    several = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    assert with_template(several).render_chat(USER) == "d"
    assert with_template(several[:1]).chat_template is None


def test_tools_and_documents_are_none_unless_given():
    text = "{% if tools is not none %}TOOLS{% endif %}{% if documents is none %}plain{% endif %}"
    assert with_template(text).render_chat(USER) == "plain"


def test_what_real_templates_use():
    text = with_template(
        "{%- for m in messages %}\n    {{- m | tojson }}\n    {%- break %}\n{%- endfor %}"
        "{{ strftime_now('%Y') | length }}{{ tools }}{{ 2 * 3 }}"
        "{{ 'a b' | replace(' ', '_') | upper }}{{ 7 % 2 }}{{ [3, 4] | map('string') | join('+') }}"
    ).render_chat([{"role": "user", "content": "é"}], tools=1)
    assert text == '{"role": "user", "content": "é"}416A_B13+4'


HOSTILE = {
    "attribute": "{{ messages.__class__.__mro__ }}",
    "subclasses": "{{ ''.__class__.__base__.__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__['x'] }}",
    "mutation": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "large text": "{{ 'x' * 10**9 }}",
    "large power": "{{ 2 ** 1000000000 }}",
    "large range": "{% for i in range(10**9) %}x{% endfor %}",
    "long output": "{% for i in range(99999) %}{{ '%01000d' | format(i) }}{% endfor %}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "wide number": "{{ '%0999999999d' | format(1) }}",
    "wide number by operator": "{{ '%0999999999d' % 1 }}",
    "wide text": "{{ 'x'.ljust(10**9) }}",
    "wide text by filter": "{{ 'x' | center(10**9) }}",
    "many batches": "{{ [1] | batch(10**9, 0) | list }}",
    "syntax": "{% if %}",
    "wide text by format": "{{ '{:999999999}'.format('a') }}",
    "wide text by format_map": "{{ '{a:999999999}'.format_map({'a': 1}) }}",
    "division by zero": "{{ 1 // 0 }}",
    "endless recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep nesting": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "unknown codec": "{{ 'a'.encode('nothing') }}",
    "undefined": "{{ nothing.at.all }}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_template_is_refused(case):
    with pytest.raises(CheckpointError, match="here"):
        with_template(HOSTILE[case]).render_chat(USER)
