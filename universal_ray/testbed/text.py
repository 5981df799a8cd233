"""Text that is there once the project is installed, as labelled documents in a fixed order.

What every CPython carries and, for the text `packages`, what some packages carry that
requirements.txt pins, all under permissive licences. Nothing is imported but the language
reference; sources are parsed. The text depends on the versions, so a record of training names
them and `fingerprint`.
"""

import ast
import gzip
import hashlib
import html
import json
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from universal_ray.errors import MissingError
from universal_ray.testbed.settings import Text

HELD_OUT_SHARE = 0.1

# Directories and modules without prose or code of their own: tests, installed packages, the
# reference (gathered apart), character tables, and files written when Python was built.
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data",
            "encodings", "lib-dynload", "__pycache__"}
_SKIPPED_PREFIXES = ("_sysconfigdata", "config-")

_AREAS = {
    "network": "asynchat asyncore cgi cgitb email ftplib http imaplib ipaddress mailbox mailcap "
    "mimetypes netrc nntplib poplib smtpd smtplib socket socketserver ssl telnetlib urllib "
    "webbrowser wsgiref xmlrpc",
    "text": "argparse configparser csv difflib gettext getopt html json locale optparse plistlib "
    "pprint re reprlib shlex sre_compile sre_constants sre_parse string stringprep textwrap "
    "tomllib xml",
    "concurrency": "_threading_local asyncio concurrent contextlib multiprocessing queue sched "
    "selectors signal subprocess threading",
    "numbers": "_pydecimal _pydatetime _strptime bisect calendar colorsys datetime decimal "
    "fractions heapq numbers random statistics zoneinfo",
    "files": "bz2 dbm filecmp fileinput fnmatch genericpath glob gzip _compression io _pyio lzma "
    "ntpath os pathlib pickle pickletools posixpath shelve shutil sqlite3 tarfile tempfile "
    "zipfile",
    "windows": "curses idlelib tkinter turtle turtledemo",
    "language": "ast bdb code codeop collections compileall copy dataclasses dis distutils "
    "doctest enum functools importlib inspect lib2to3 modulefinder opcode pdb pkgutil pyclbr "
    "pydoc runpy symtable tabnanny token tokenize trace traceback types typing unittest weakref",
}
_AREA_OF = {module: area for area, modules in _AREAS.items() for module in modules.split()}

_PACKAGES = {  # BSD, MIT or Apache 2.0; Matplotlib and Python under licences like BSD's
    "science": "mpmath networkx numpy scipy sympy",
    "data": "pandas scikit-learn",
    "drawing": "matplotlib",
    "network": "huggingface_hub werkzeug",
    "language": "pydantic pytest",
}
_MANUAL = "botocore"
"""Its descriptions of web services are a manual, under Apache 2.0."""
_FOREIGN = {"_external", "_vendor", "_vendored", "array_api_compat", "array_api_extra", "externals",
            "extern", "vendored"}
"""Directories of what a package took over from elsewhere, under licences of its own."""
_BUILT = {"__config__.py", "_version.py", "_version_meson.py", "version.py"}
"""Files that are written when a package is built."""
LETTERS = 0.6
"""Least share of letters and blanks in a document of a package: tables of numbers have fewer."""
MANUAL_CHARACTERS = 200
"""Shortest description that counts as prose."""


@dataclass(frozen=True)
class Document:
    """One piece of text; its subset: `reference`, `docstrings`, `manual` or `code: <area>`."""

    subset: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the document is kept from training, by the hash of its text alone."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def gather(name: Text) -> list[Document]:
    """All documents of a text in a fixed order, the first of any with equal text.

    A document is a topic of the reference, a description of the manual, or a top-level class or
    function of a module together with the statements before it; its docstrings are taken out and
    make a document of their own. Raises MissingError for a package that is not installed.
    """
    unique: dict[str, Document] = {}
    for source in _SOURCES[name]:
        for document in source():
            unique.setdefault(document.text, document)
    return list(unique.values())


def versions(name: Text) -> dict[str, str]:
    """Version of everything that a text comes from."""
    found = {"python": platform.python_version()}
    if name is Text.packages:
        packages = [*" ".join(_PACKAGES.values()).split(), _MANUAL]
        found |= {package: _installed(package).version for package in sorted(packages)}
    return found


def licence(package: str) -> str:
    """The licence of an installed package and what notices come with it, below its name."""
    parts = [f"{package} {_installed(package).version}\n{'=' * 78}\n"]
    for name, path in _files(package):
        own = re.fullmatch(r"[^/]+\.dist-info/(licenses/)?(LICENSE|COPYING|NOTICE)[^/]*", str(name))
        if own:
            parts.append(path.read_text(encoding="utf-8").rstrip() + "\n")
    if len(parts) == 1:
        raise MissingError(f"{package} is installed without its licence: install it again")
    return "\n".join(parts) + "\n\n"


def fingerprint(documents: list[Document]) -> str:
    """sha256 over subset and text of all documents in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.subset}\0{document.text}\0".encode())
    return digest.hexdigest()


def _reference() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document("reference", topics[name].strip() + "\n")


def _standard_library() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _SKIPPED.intersection(parts) or parts[0].startswith(_SKIPPED_PREFIXES):
            continue
        area = _AREA_OF.get(parts[0].removesuffix(".py"), "other")
        yield from _parsed(path, parts, f"code: {area}")


def _parsed(path: Path, parts: tuple[str, ...], subset: str) -> Iterator[Document]:
    """Documents of one source file, `parts` of which name its module."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError):  # a few files are broken on purpose, as samples
        return
    module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
    yield from _documents(source, tree, module, subset)


def _installed(package: str) -> Distribution:
    try:
        return distribution(package)
    except PackageNotFoundError as error:
        raise MissingError(
            f"the text comes from {package} too, which is not installed: "
            "pip install -r requirements.txt"
        ) from error


def _files(package: str) -> Iterator[tuple[PurePosixPath, Path]]:
    """Every file of an installed package: its name in the package and where it lies, by name."""
    installed = _installed(package)
    for name in sorted(map(str, installed.files or ())):
        yield PurePosixPath(name), Path(str(installed.locate_file(name)))


def _package_sources() -> Iterator[Document]:
    for area, packages in _PACKAGES.items():
        for package in packages.split():
            for name, path in _files(package):
                if name.suffix != ".py" or name.name in _BUILT or name.parts[0] == "..":
                    continue
                if (_SKIPPED | _FOREIGN).intersection(name.parts):
                    continue
                for document in _parsed(path, name.parts, f"code: {area}"):
                    letters = sum(c.isalpha() or c.isspace() for c in document.text)
                    if letters >= LETTERS * len(document.text):
                        yield document


def _manual() -> Iterator[Document]:
    """Long descriptions of operations and their shapes, each service as its newest version has it.

    The markup is taken out: a line per paragraph or item.
    """
    newest = {
        name.parts[2]: path
        for name, path in _files(_MANUAL)
        if name.match("botocore/data/*/*/service-2.json.gz")
    }
    for path in newest.values():
        service = json.loads(gzip.decompress(path.read_bytes()))
        for kind in ("operations", "shapes"):
            for name, described in service[kind].items():
                marked = re.sub(r"</(p|li|note|h\d|ul)>", "\n", described.get("documentation", ""))
                plain = html.unescape(re.sub(r"<[^>]+>", "", marked))
                lines = [" ".join(line.split()) for line in plain.splitlines()]
                prose = "\n".join(line for line in lines if line)
                if len(prose) >= MANUAL_CHARACTERS:
                    yield Document("manual", f"{name}\n\n{prose}\n")


def _documents(source: str, tree: ast.Module, module: str, subset: str) -> Iterator[Document]:
    """Docstrings and code of one module, cut after every top-level class or function."""
    lines = source.splitlines()
    definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    cuts = [node.end_lineno or 0 for node in tree.body if isinstance(node, definitions)]
    if not cuts or cuts[-1] < len(lines):
        cuts.append(len(lines))
    entries = list(_docstrings(tree, module))
    start = 0
    for end in cuts:
        inside = [entry for entry in entries if start < entry[0] <= end]
        prose = "\n\n".join(text for _, _, text in inside)
        if prose:
            yield Document("docstrings", prose + "\n")
        dropped = {line for first, last, _ in inside for line in range(first, last + 1)}
        kept = [lines[i - 1].rstrip() for i in range(start + 1, end + 1) if i not in dropped]
        code = "\n".join(kept).strip("\n")
        if code:
            yield Document(subset, code + "\n")
        start = end


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[int, int, str]]:
    """First line, last line and text, headed by the object's full name, of every docstring."""

    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def visit(node: ast.AST, name: str) -> Iterator[tuple[int, int, str]]:
        if isinstance(node, owners):
            text = ast.get_docstring(node)
            if text:
                where = node.body[0]
                yield where.lineno, where.end_lineno or where.lineno, f"{name}\n\n{text}"
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):  # nearly all there is; nothing is defined in one
                continue
            inner = getattr(child, "name", None)
            named = isinstance(child, owners) and inner
            yield from visit(child, f"{name}.{inner}" if named else name)

    yield from visit(tree, module)


_PYTHON = (_reference, _standard_library)
_SOURCES = {Text.python: _PYTHON, Text.packages: (*_PYTHON, _package_sources, _manual)}
"""Where the documents of a text come from."""
