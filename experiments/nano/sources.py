"""Documents of the nano corpus that come from the standard library, and how they are split."""

import ast
import dataclasses
import hashlib
import importlib
import inspect
import re
import types
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

RESERVED_PATH = Path(__file__).resolve().parent / "reserved_modules.txt"

HELDOUT_SHARE = 0.035
# Picked by bytes (3 to 4 % of code and of English) and a mix of library and test files, before any
# score was known.
SPLIT_SALT = "nano-heldout-6:"

# Site packages are not the standard library; the rest is written by the build of the interpreter
# and so differs between machines.
SKIPPED = re.compile(
    r"(^|/)(site-packages|dist-packages|__pycache__)/"
    r"|(^|/)(_sysconfigdata|config-)[^/]*(/|$)"
    r"|^(sitecustomize|usercustomize)\.py$"
    r"|^lib2to3/tests/data/"
)
NOTES = re.compile(r"(^|/)(README|NEWS|HISTORY|TODO|CREDITS|LICENSE)[^/]*\.txt$")
TOPICS = "pydoc_data/topics.py"
NUMERIC = re.compile(r"0[xX][0-9a-fA-F]+|\\[xu][0-9a-fA-F]+|[0-9]+")
# Present in every build of CPython, whatever optional libraries it was built with.
BUILTIN_MODULES = (
    "_bisect",
    "_codecs",
    "_collections",
    "_datetime",
    "_functools",
    "_heapq",
    "_io",
    "_operator",
    "_struct",
    "_thread",
    "array",
    "builtins",
    "cmath",
    "gc",
    "itertools",
    "math",
    "sys",
    "time",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """One text of the corpus.

    Attributes:
        path: File path relative to the standard library, with `#part` for a part of a file.
        domain: One of `DOMAINS`.
        split: `train`, `heldout` or `reserved`.
        text: The text itself; a template shard holds its documents in `parts` instead.
        parts: Texts that are separated by a document boundary; `(text,)` for a plain document.
    """

    path: str
    domain: str
    split: str
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        """The parts joined without a separator: what is hashed and counted."""
        return "".join(self.parts)


def read_reserved(path: Path = RESERVED_PATH) -> frozenset[str]:
    """Names of the reserved modules and packages."""
    lines = (line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return frozenset(line for line in lines if line)


def is_heldout(path: str) -> bool:
    """Whether the hash of a document's path puts it into the held-out split."""
    digest = hashlib.sha256((SPLIT_SALT + path.removesuffix("#doc")).encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELDOUT_SHARE * 2**64


def is_test(path: str) -> bool:
    """Whether a file of the standard library is a test or serves tests."""
    return any(part in ("test", "tests", "idle_test") for part in path.split("/")[:-1])


def imported_names(tree: ast.AST) -> frozenset[str]:
    """Top-level names of all modules that a syntax tree imports, nested imports included.

    Imports by string, which tests of the standard library make with `import_module("name")` and
    `import_fresh_module("name")`, count too.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if "import" in called and isinstance(node.args[0].value, str):
                names.add(node.args[0].value.split(".")[0])
    return frozenset(names)


def is_reserved(path: str, imports: Iterable[str], reserved: frozenset[str]) -> bool:
    """Whether a file belongs to a reserved module or is a test that touches one.

    Args:
        path: Path relative to the standard library, with forward slashes.
        imports: Top-level names that the file imports.
        reserved: Names of the reserved modules.

    Returns:
        True for the module's own files, for tests named after it (`test_email`,
        `_test_multiprocessing`) and for tests that import it.
    """
    parts = path.removesuffix(".py").split("/")
    if parts[0] in reserved:
        return True
    if not is_test(path):
        return False
    named = any(
        re.fullmatch(rf"_?test_{re.escape(name)}(_.*)?", part)
        for part in parts
        for name in reserved
    )
    return named or not reserved.isdisjoint(imports)


def is_prose(text: str) -> bool:
    """Whether a text is long enough and made of words rather than of code or drawings."""
    wordlike = sum(c.isalpha() or c in " \n,.'" for c in text)
    # An escape in a literal can make half of a surrogate pair, which UTF-8 cannot write.
    whole = not any("\ud800" <= c <= "\udfff" for c in text)
    return whole and len(text) >= 40 and wordlike >= 0.85 * len(text)


def docstrings(tree: ast.AST) -> list[str]:
    """Docstrings of a module, its classes and functions, cleaned of indentation, in file order."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [
        (getattr(node, "lineno", 0), ast.get_docstring(node) or "")
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]
    return [text.strip() for _, text in sorted(found, key=lambda item: item[0])]


def comments(source: str) -> list[str]:
    """Blocks of at least two whole-line comments, without their `#` marks."""
    blocks: list[str] = []
    block: list[str] = []
    for line in [*source.splitlines(), ""]:
        stripped = line.strip()
        if stripped.startswith("#") and not stripped.startswith("#!"):
            block.append(stripped.lstrip("#").removeprefix(" ").rstrip())
            continue
        if len(block) >= 2:
            blocks.append("\n".join(block).strip())
        block = []
    return blocks


def builtin_docs(name: str) -> list[str]:
    """Documentation of a module written in C, of its functions, classes and their methods."""
    module = importlib.import_module(name)
    texts = [inspect.getdoc(module) or ""]
    described = (type, types.BuiltinFunctionType, types.MethodDescriptorType)
    for _, member in sorted(vars(module).items()):
        # Without the owner's name a member that Python code added to the module would slip in.
        if not isinstance(member, described):
            continue
        if getattr(member, "__module__", None) not in (name, name.lstrip("_"), "builtins"):
            continue
        texts.append(member.__doc__ or "")
        if isinstance(member, type):
            texts += [
                method.__doc__ or ""
                for _, method in sorted(vars(member).items())
                if isinstance(method, types.MethodDescriptorType)
            ]
    # A class may define `__doc__` as a descriptor of its instances.
    return [inspect.cleandoc(text) for text in texts if isinstance(text, str)]


def _split(path: str) -> str:
    return "heldout" if is_heldout(path) else "train"


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return None


def _english(path: str, split: str, texts: Iterable[str], seen: set[str]) -> Iterator[Document]:
    fresh = []
    for text in texts:
        if is_prose(text) and text not in seen:
            seen.add(text)
            fresh.append(text)
    if fresh:
        body = "\n\n".join(fresh) + "\n"
        yield Document(path=f"{path}#doc", domain="english", split=split, parts=(body,))


def library_documents(root: Path, reserved: frozenset[str]) -> Iterator[Document]:
    """Code and English documents of a standard library.

    Files that are not UTF-8, do not parse, repeat another file exactly, or consist mostly of
    numbers (tables, binary test data) are left out.

    Args:
        root: Folder of the standard library, or any tree of Python files.
        reserved: Names of the reserved modules.

    Yields:
        Code and docstrings in path order, then the notes (licence, news); those of reserved files have the split `reserved`.
    """
    hashes: set[str] = set()
    seen: set[str] = set()
    for file in sorted(root.rglob("*.py"), key=lambda item: item.relative_to(root).as_posix()):
        path = file.relative_to(root).as_posix()
        if SKIPPED.search(path):
            continue
        try:
            source = file.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        tree = _parse(source)
        digest = hashlib.sha256(source.encode()).hexdigest()
        if tree is None or not source.strip() or digest in hashes:
            continue
        hashes.add(digest)
        if path == TOPICS:
            yield from _topics(tree)
            continue
        numeric = sum(map(len, NUMERIC.findall(source)))
        if len(source) > 4096 and numeric > 0.12 * len(source):
            continue
        taken = is_reserved(path, imported_names(tree), reserved)
        split = "reserved" if taken else _split(path)
        yield Document(path=path, domain="code", split=split, parts=(source,))
        yield from _english(path, split, docstrings(tree) + comments(source), seen)
    yield from _notes(root, reserved)


def _notes(root: Path, reserved: frozenset[str]) -> Iterator[Document]:
    for file in sorted(root.rglob("*.txt"), key=lambda item: item.relative_to(root).as_posix()):
        path = file.relative_to(root).as_posix()
        if SKIPPED.search(path) or not NOTES.search(path):
            continue
        text = file.read_bytes().decode("utf-8", errors="replace")
        split = "reserved" if is_reserved(path, (), reserved) else _split(path)
        yield Document(path=path, domain="english", split=split, parts=(text,))


def _topics(tree: ast.Module) -> Iterator[Document]:
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    for name, text in sorted(ast.literal_eval(table).items()):
        path = f"{TOPICS}#{name}"
        yield Document(path=path, domain="english", split=_split(path), parts=(text,))


def builtin_documents() -> Iterator[Document]:
    """English documents made from the docstrings of modules written in C."""
    seen: set[str] = set()
    for name in BUILTIN_MODULES:
        path = f"builtin/{name}"
        yield from _english(path, _split(path), builtin_docs(name), seen)
