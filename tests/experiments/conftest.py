import pytest

from experiments.nano import corpus


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A small corpus with a tokenizer of 512 entries and its token files."""
    out = tmp_path_factory.mktemp("corpus")
    made = [
        corpus.Document(path="a.py", domain="code", split="train", parts=("if x:\n    pass\n",)),
        corpus.Document(path="b.py", domain="code", split="heldout", parts=("y = 'ä€'\n",)),
        corpus.Document(path="a#doc", domain="english", split="train", parts=("Some words.\n",)),
        corpus.Document(path="b#doc", domain="english", split="heldout", parts=("Words.\n",)),
        *corpus.template_documents(2, 1),
    ]
    manifest = corpus.build(out, made, vocab_size=512)
    return out, made, manifest
