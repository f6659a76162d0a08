"""Builds the wheel and uses it in an environment of its own, outside the checkout."""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).parents[1]


def main() -> int:
    """Returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", name, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = folder.glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        tops = sorted({entry.split("/")[0] for entry in names})
        print(
            f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1e6:.1f} MB, holds {tops}"
        )
        if [top for top in tops if top != "ariel_jax" and not top.endswith(".dist-info")]:
            print("FAILED the wheel must hold ariel_jax only")
            return 1
        needed = ("model.safetensors", "config.json", "tokenizer.json", "README.md")
        missing = {f"ariel_jax/assets/nano/{n}" for n in needed} - set(names)
        if missing:
            print(f"FAILED the wheel lacks {sorted(missing)}")
            return 1
        venv = folder / "venv"
        subprocess.run(["sh", str(ROOT / "tools" / "bootstrap.sh"), str(venv)], check=True)
        install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
        subprocess.run(install, check=True, cwd=folder)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = str(venv / "bin" / "ariel-jax")
        for arguments in (["--version"], ["generate", "--prompt", "import os", "--max-new", "8"]):
            subprocess.run([command, *arguments], check=True, cwd=folder, env=environment)
    return 0


if __name__ == "__main__":
    sys.exit(main())
