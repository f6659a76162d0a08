from hypothesis import given, settings
from hypothesis import strategies as st

from ariel_jax import testing
from ariel_jax.decode import Detokenizer
from ariel_jax.decode.stream import _Row

TOY = testing.toy_tokenizer()
EOS = frozenset({0})


@given(st.lists(st.integers(4, testing.TOY_VOCAB_SIZE - 1), max_size=30))
@settings(max_examples=150, deadline=None)
def test_pieces_join_to_the_whole_text_and_split_no_character(ids):
    stream = Detokenizer(TOY)
    pieces = [stream.add(i) for i in ids]
    pieces.append(stream.finish())
    assert "".join(pieces) == TOY.decode(ids)


@given(st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_sound_text_streams_without_replacement_characters(text):
    stream = Detokenizer(TOY)
    pieces = [stream.add(i) for i in TOY.encode(text)] + [stream.finish()]
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_is_held_until_it_is_whole():
    stream = Detokenizer(TOY)
    ids = TOY.encode("a☃b")
    assert len(ids) == 5
    assert [stream.add(i) for i in ids] == ["a", "", "", "☃", "b"]
    assert stream.finish() == ""
    for i in TOY.encode("é")[:1]:
        assert stream.add(i) == ""
    assert stream.finish() == "\ufffd"


def read(text: str, stop: tuple[str, ...], every: int) -> tuple[str, str, list[int]]:
    """(text handed out, reason, kept tokens) when looking after each `every` tokens."""
    ids = TOY.encode(text)
    row, shown = _Row(TOY, stop, eos=EOS, hidden=EOS), ""
    for n in range(every, len(ids) + every, every):
        new, keep = row.update(ids[:n], is_last=n >= len(ids))
        shown += new
        if keep is not None:
            break
    assert shown == row.text
    return shown, row.reason, row.tokens


@given(
    st.text("ab☃", max_size=24),
    st.lists(st.text("ab☃", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_where_a_text_stops_does_not_depend_on_how_often_it_is_looked_at(text, stop):
    alone = read(text, tuple(stop), 1)
    assert read(text, tuple(stop), 5) == alone == read(text, tuple(stop), 1000)
    assert not any(s in alone[0] for s in stop)
    assert (alone[1] == "stop") == any(s in text for s in stop)


def test_the_stop_string_that_is_whole_first_wins():
    for every in (1, 16):
        assert read("xabcd", ("abcd", "b"), every)[:2] == ("xa", "stop")
        assert read("xabcd", ("abcd", "bc"), every)[:2] == ("xa", "stop")


def test_an_end_of_text_token_is_kept_and_not_shown():
    ids = [*TOY.encode("hi"), 0]
    for eos, reason in ((EOS, "eos"), (frozenset(), "length")):  # it ends the text, or is ignored
        row = _Row(TOY, (), eos=eos, hidden=EOS)
        assert row.update(ids, is_last=True) == ("hi", None)
        assert (row.reason, row.tokens, row.text) == (reason, ids, "hi")


def test_an_unreadable_byte_does_not_stop_the_stream():
    class ByteFallback:
        """Decodes runs of byte tokens as Llama's tokenizer does: one bad byte spoils its run."""

        def decode(self, ids):
            text, run = "", b""
            for i in [*ids, None]:
                if i is not None and i < 256:
                    run += bytes([i])
                    continue
                try:
                    text += run.decode()
                except UnicodeDecodeError:
                    text += "\ufffd" * len(run)
                run = b""
                text += "" if i is None else chr(i - 256)
            return text

    ids = [256 + ord("a"), *"é".encode(), 0xFF, *(256 + ord(c) for c in "bcdbcd")]
    row, seen = _Row(ByteFallback(), ("d",), eos=EOS, hidden=EOS), ""
    for n in range(1, len(ids) + 1):
        new, keep = row.update(ids[:n], is_last=n == len(ids))
        seen += new
        if keep is not None:
            break
    assert keep == 7
    assert seen == row.text
    assert seen.startswith("aé")
    assert seen.endswith("bc")
