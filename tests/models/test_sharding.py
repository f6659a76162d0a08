import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ariel_jax import backend, testing
from ariel_jax.errors import ConfigError
from ariel_jax.models import paths, sharding
from ariel_jax.models.hf import load_pretrained, save_pretrained

ROWS, COLUMNS, WHOLE = PartitionSpec("tensor", None), PartitionSpec(None, "tensor"), PartitionSpec()


class Mesh:
    """The part of a mesh that the table looks at, for more devices than there are."""

    def __init__(self, **shape: int):
        self.shape = shape


def test_the_table():
    cfg = testing.tiny_config("llama-biases")
    specs = sharding.leaf_specs(cfg, Mesh(data=4, tensor=2))  # type: ignore[arg-type]
    assert specs["embed"] == ROWS
    for name in ("attn.q", "attn.k", "attn.v", "mlp.up", "mlp.gate"):
        assert specs[f"layers.1.{name}.w"] == ROWS
        assert specs[f"layers.1.{name}.b"] == PartitionSpec("tensor")
    for name in ("attn.o", "mlp.down"):
        assert specs[f"layers.1.{name}.w"] == COLUMNS
        assert specs[f"layers.1.{name}.b"] == WHOLE
    assert specs["layers.0.attn_norm.scale"] == specs["final_norm.scale"] == WHOLE


def test_what_does_not_divide_is_on_every_device():
    cfg = testing.tiny_config("llama", vocab_size=321, d_ff=46)
    specs = sharding.leaf_specs(cfg, Mesh(tensor=4))  # type: ignore[arg-type]
    assert specs["layers.0.attn.q.w"] == ROWS
    assert specs["layers.0.attn.o.w"] == COLUMNS
    for name in ("attn.k", "attn.v", "mlp.up", "mlp.gate", "mlp.down"):
        assert specs[f"layers.0.{name}.w"] == WHOLE
    assert specs["embed"] == specs["unembed.w"] == WHOLE


def test_other_axes_are_refused():
    for shape in ({"model": 2}, {"data": 2}, {"tensor": 2, "pipeline": 2}):
        with pytest.raises(ConfigError, match="'data' and 'tensor'"):
            sharding.leaf_specs(testing.tiny_config(), Mesh(**shape))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [{"tensor": 2}, {"data": 2}])
def test_loading_onto_two_devices(tmp_path, shape):
    saved = testing.write_toy_checkpoint(tmp_path / "m", "gpt2")
    mesh = backend.make_mesh(**shape)
    model = load_pretrained(tmp_path / "m", mesh=mesh)
    wanted = paths.flatten(sharding.param_shardings(model.cfg, mesh))
    expected = paths.flatten(saved.params)
    for path, leaf in paths.flatten(model.params).items():
        assert leaf.sharding == wanted[path]
        np.testing.assert_array_equal(leaf, expected[path])
    q = model.params.layers[0].attn.q.w
    assert q.addressable_shards[0].data.size == q.size // shape.get("tensor", 1)
    save_pretrained(model, tmp_path / "again")
    again = load_pretrained(tmp_path / "again")
    for ours, theirs in zip(
        jax.tree.leaves(saved.params), jax.tree.leaves(again.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


EIGHT = """
import json, pathlib, sys
import jax, numpy as np
import jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "highest")
from ariel_jax import backend
from ariel_jax.layers.attention import causal
from ariel_jax.models import decoder
from ariel_jax.models.hf import load_pretrained
tokens = np.arange(4, 52, dtype=np.int32).reshape(4, 12)
positions = np.broadcast_to(np.arange(12, dtype=np.int32), (4, 12))
def forward(model, place):
    attend = causal(model.cfg.attention)
    run = jax.jit(lambda p, t, at: decoder.apply(model.cfg, p, t, at, attend, None)[0])
    return np.asarray(run(model.params, *jax.device_put((tokens, positions), place)))
folder = pathlib.Path(sys.argv[1])
alone = forward(load_pretrained(folder), None)
found = {}
for data, tensor in ((1, 2), (2, 4)):
    mesh = backend.make_mesh(data=data, tensor=tensor)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    model = load_pretrained(folder, mesh=mesh)
    q = model.params.layers[0].attn.q.w
    found[f"{data}x{tensor}"] = {
        "error": float(abs(forward(model, rows) - alone).max() / alone.std()),
        "share": q.addressable_shards[0].data.size / q.size,
        "devices": len(q.sharding.device_set),
    }
print(json.dumps(found))
"""


def test_two_and_eight_devices_compute_what_one_does(tmp_path):
    testing.write_toy_checkpoint(tmp_path / "m", "llama", n_heads=8, n_kv_heads=4, head_dim=8)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EIGHT, str(tmp_path / "m")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert set(found) == {"1x2", "2x4"}
    for name, facts in found.items():
        assert facts["error"] < 1e-5, name
        data, tensor = map(int, name.split("x"))
        assert facts["devices"] == data * tensor
        assert facts["share"] == 1 / tensor
