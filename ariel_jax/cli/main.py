"""The command `ariel-jax`: imports the asked command only, and turns errors into messages.

Exit status: 0 done; 1 the command's own failure; 2 an error of the caller (bad flag, `ArielError`);
130 interrupted; 141 nobody reads the output.
"""

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

import ariel_jax
from ariel_jax.errors import ArielError, ConfigError

PLATFORMS = ("cpu", "gpu", "tpu")

# command -> what it does; its module is cli/<command, with _ for ->.py and offers Args and run
COMMANDS = {
    "generate": "Stream text from a model and say what it cost.",
    "bench": "Measure decoding, alone or beside another program.",
    "train-lm": "Train a language model on text files; the same command resumes.",
    "train-private": "Fine-tune a model on private records under a privacy budget; the same command resumes.",
    "generate-private": "Answer queries from private demonstrations under a privacy budget.",
    "plan": "Choose cache capacities for a model on this machine, and say why.",
    "quantize": "Write a model with weights of 8 or 4 bits, and say what that costs.",
    "kernels": "Build the native CPU kernels, or say what there is of them.",
    "ledger": "Show what privacy budgets have paid for, or check that their file is intact.",
    "judge": "May this be disclosed? Share, withhold or ask, by the user's earlier judgements.",
    "privacy": "Judgements, proofs and the log of the privacy judge; serve it to agents.",
    "info": "Print the backend, devices, versions, measured ceilings and kernel choices.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status.

    Args:
        argv: the arguments without the program's name; None means those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except ArielError as error:
        print(f"ariel-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ariel-jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit; give it something that accepts the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str]) -> int:
    platform, arguments = _take_backend(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"ariel-jax {ariel_jax.__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return _complain(f"no command {name!r}: the commands are {', '.join(COMMANDS)}.{hint}")
    module: Any = importlib.import_module(f"ariel_jax.cli.{name.replace('-', '_')}")
    try:
        args = _parse(module.Args, name, rest)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    warnings.showwarning = _show_warning
    if hasattr(module, "before_jax"):  # what must come before jax touches a device
        module.before_jax(args)
    if platform is not None or getattr(module, "NEEDS_JAX", True):
        _start_jax(platform)
    return module.run(args)


def _take_backend(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Returns the value of `--backend`, wherever it stands, and the other arguments."""
    platform, rest = None, []
    words = iter(arguments)
    for word in words:
        if word == "--backend":
            platform = next(words, "")
        elif word.startswith("--backend="):
            platform = word.partition("=")[2]
        else:
            rest.append(word)
    if platform is not None and platform not in PLATFORMS:
        raise ConfigError(f"--backend {platform!r} is not allowed: pass one of {PLATFORMS}.")
    return platform, rest


def _parse(kind: Any, name: str, rest: list[str]) -> Any:
    import tyro

    about = f"{COMMANDS[name]} Every command also takes --backend {{{','.join(PLATFORMS)}}}."
    return tyro.cli(kind, prog=f"ariel-jax {name}", description=about, args=rest)


def _start_jax(platform: str | None) -> None:
    backend: Any = importlib.import_module("ariel_jax.backend")
    if platform is not None:
        backend.use(platform)
    try:
        backend.enable_compile_cache()
    except ArielError as error:
        print(f"ariel-jax: warning: programs are compiled anew: {error}", file=sys.stderr)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"ariel-jax: warning: {message}", file=file or sys.stderr)


def _complain(message: str) -> int:
    print(f"ariel-jax: error: {message}", file=sys.stderr)
    return 2


def _usage() -> str:
    rows = "\n".join(f"  {name:16s} {about}" for name, about in COMMANDS.items())
    return (
        "usage: ariel-jax [--backend {cpu,gpu,tpu}] COMMAND [OPTIONS]\n"
        "       ariel-jax COMMAND --help\n"
        "       ariel-jax --version\n\n"
        f"commands:\n{rows}"
    )


if __name__ == "__main__":
    sys.exit(main())
