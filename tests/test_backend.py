import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ariel_jax import backend, programs
from ariel_jax.errors import BackendError, ConfigError, StorageError


def test_an_absent_platform_is_refused_by_name_with_the_available_ones():
    with pytest.raises(BackendError, match=r"'gpu' is not available.*\['cpu'\].*ariel-jax\[cuda\]"):
        backend.use("gpu")
    with pytest.raises(BackendError, match=r"ariel-jax\[tpu\]"):
        backend.use("tpu")
    with pytest.raises(ConfigError, match="'cpu', 'gpu', 'tpu'"):
        backend.use("cuda")
    assert backend.platform() == "cpu"


def test_use_of_the_default_platform_changes_nothing():
    backend.use("cpu")
    assert jax.config.jax_default_device is None
    assert backend.available() == ("cpu",)


def test_use_cpu_before_jax_starts_keeps_it_from_starting_accelerators():
    code = """
import jax
from ariel_jax import backend
backend.use("cpu")
print(jax.config.jax_platforms, jax.default_backend(), backend.platform())
"""
    env = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert run.stdout.split() == ["cpu", "cpu", "cpu"]


def test_platform_follows_target_mesh_and_default_device_in_that_order(monkeypatch):
    seen = []

    @jax.jit
    def look(x):
        seen.append(backend.platform())
        return x

    with backend.target("gpu"):
        look.lower(jnp.zeros(()))
        with backend.target("tpu"):
            assert backend.platform() == "tpu"
    assert seen == ["gpu"]
    assert backend.platform() == "cpu"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert backend.platform() == "tpu"
    with jax.default_device(jax.devices("cpu")[1]):
        assert backend.platform() == "cpu"
    with jax.set_mesh(backend.make_mesh(data=2)):
        assert backend.platform() == "cpu"
    with pytest.raises(ConfigError, match="platform='cuda'"), backend.target("cuda"):
        pass


def test_facts_describe_the_device_and_its_memory():
    facts = backend.facts()
    assert facts["platform"] == "cpu"
    assert facts["n_devices"] == 2
    assert facts["memory_kinds"][0] == jax.devices()[0].default_memory().kind
    assert facts["available"] == ["cpu"]


def test_make_mesh_has_the_axes_data_and_tensor():
    mesh = backend.make_mesh(data=1, tensor=2)
    assert dict(mesh.shape) == {"data": 1, "tensor": 2}
    with pytest.raises(BackendError, match=r"needs 6 devices, 'cpu' has 2"):
        backend.make_mesh(data=3, tensor=2)
    with pytest.raises(ConfigError, match="tensor=0"):
        backend.make_mesh(tensor=0)


def test_compiler_options_are_probed_and_an_unknown_one_is_not_offered(monkeypatch):
    assert programs.accepts_compiler_options("cpu", {"no_such_option_of_xla": True}) is False
    options = backend.compiler_options("cpu")
    assert options == {"xla_cpu_copy_insertion_use_region_analysis": True}
    assert float(jax.jit(lambda x: x + 1, compiler_options=options)(jnp.float32(1))) == 2
    assert backend.compiler_options("gpu") == {}
    backend.compiler_options.cache_clear()
    monkeypatch.setattr(programs, "accepts_compiler_options", lambda *a: False)
    assert backend.compiler_options("cpu") == {}
    backend.compiler_options.cache_clear()


@pytest.fixture
def restored_config():
    """Puts back the compile cache that the test run uses."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_compile_cache_is_made_private_and_used(tmp_path, monkeypatch, restored_config):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = backend.enable_compile_cache()
    assert found.parent == tmp_path / "ariel_jax"
    assert found.name.startswith(f"xla-{jax.__version__}-")
    assert found.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == str(found)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_cache_folder_that_others_can_write_to_is_refused(tmp_path, mode, restored_config):
    before = jax.config.jax_compilation_cache_dir
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    with pytest.raises(StorageError, match=f"mode {mode:04o}.*chmod -R go-w"):
        backend.enable_compile_cache(shared)
    assert jax.config.jax_compilation_cache_dir == before


def test_a_cache_folder_of_another_user_or_behind_a_link_is_refused(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StorageError, match="no folder"):
        backend.private_directory(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make"):
        backend.private_directory(tmp_path / "file")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(StorageError, match="you are 12345"):
        backend.private_directory(tmp_path / "real")
