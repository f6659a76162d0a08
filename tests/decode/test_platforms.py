"""The same text on every platform; `-m gpu` and `-m tpu` run it there."""

import json
import os
import subprocess
import sys

import pytest

from ariel_jax.decode import SamplingParams, generate
from ariel_jax.testing import write_toy_checkpoint

CODE = """
import json, sys
from ariel_jax import backend
from ariel_jax.decode import Arithmetic, SamplingParams, generate
from ariel_jax.models.config import Precision
from ariel_jax.models.hf import load_pretrained
backend.use(sys.argv[1])
model = load_pretrained(sys.argv[2], precision=Precision(matmul="highest"))
out = generate(
    model, ["to be", "a"], max_new=24, capacity=Arithmetic(16, 16), ignore_eos=True,
    sampling=[SamplingParams(), SamplingParams(temperature=0.9, top_p=0.9, seed=5)],
)
print(json.dumps([c.tokens for c in out.completions]))
"""


@pytest.mark.parametrize(
    "platform",
    [
        "cpu",
        pytest.param("gpu", marks=pytest.mark.gpu),
        pytest.param("tpu", marks=pytest.mark.tpu),
    ],
)
def test_a_platform_gives_the_tokens_of_this_process(tmp_path, platform):
    model = write_toy_checkpoint(tmp_path / "toy")
    here = generate(
        model,
        ["to be", "a"],
        max_new=24,
        ignore_eos=True,
        sampling=[SamplingParams(), SamplingParams(temperature=0.9, top_p=0.9, seed=5)],
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", CODE, platform, str(tmp_path / "toy")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert json.loads(done.stdout) == [list(c.tokens) for c in here.completions]
