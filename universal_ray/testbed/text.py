"""The text that every CPython installation carries, as labelled documents in a fixed order.

Nothing is imported but the language reference; the standard library is parsed. The text depends
on the Python version, so a record of training names that version and `fingerprint`.
"""

import ast
import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Document:
    """One piece of text, with its subset: `reference`, `docstrings` or `code: <area>`."""

    subset: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether the document is kept from training, by the hash of its text alone."""
        digest = hashlib.sha256(self.text.encode()).digest()
        return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def gather() -> list[Document]:
    """All documents in a fixed order, the first of any with equal text.

    A document is a topic of the reference, or a top-level class or function of a module together
    with the statements before it; its docstrings are taken out and make a document of their own.
    """
    unique: dict[str, Document] = {}
    for document in [*_reference(), *_standard_library()]:
        unique.setdefault(document.text, document)
    return list(unique.values())


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
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError):  # a few files are broken on purpose, as samples
            continue
        area = _AREA_OF.get(parts[0].removesuffix(".py"), "other")
        module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
        yield from _documents(source, tree, module, f"code: {area}")


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
