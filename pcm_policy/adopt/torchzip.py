"""Read a torch checkpoint without running anything that it names.

A checkpoint is a zip file: a pickle, and one entry for each tensor's numbers. A pickle is a program
that may name any function and call it. Here no name is ever looked up: the few that tensors and
plain data need stand for stand-ins of this module, configs of OmegaConf become inert shells, and
any other name is refused. The interpreter is the pure Python one, whose memory grows with the file,
and whose work is bounded: so many operations, texts and numbers alone as keys, and what it built is
as large as it looks however often its parts are repeated.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pcm_policy.errors import PcmError

_PICKLE_BYTES = 64 << 20
_ENTRIES = 200_000
_DEPTH = 100
_OPERATIONS = 2_000_000  # a thousand tensors take 30,000
_NUMBER_KEYS = 50_000
_KEY_LENGTH = 1000
_NODES = 2_000_000  # of what the pickle makes, written out
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_TYPES = ("list", "tuple", "str", "int", "long", "float", "bool", "bytes")  # long: int, protocol 2
_INERT = {  # read, never needed
    *(("builtins", name) for name in _TYPES),
    ("_codecs", "encode"),
    ("dill._dill", "_load_type"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("pathlib", "PosixPath"),
    ("typing", "Any"),
}


class Stored(NamedTuple):
    """Where a tensor lies in the archive; nothing is read until :meth:`Archive.tensor`."""

    dtype: torch.dtype
    key: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str


class _Dict(dict[Any, Any]):
    """An OrderedDict; attributes that its pickle sets (``_metadata``) are dropped."""

    def __setstate__(self, state: object) -> None:
        pass


class _Function:
    """Stands for a function or class that a pickle may call; nothing can be put into it."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: object) -> None:
        raise ValueError("a pickle tries to change a function")


class _Shell:
    """An object of a class that is not here: its state, and nothing that could act."""

    __slots__ = ("state",)

    def __init__(self, *args: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Drop what a pickle appends."""


class Archive:
    """An open checkpoint: ``content`` is plain data with :class:`Stored` in place of tensors."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self._archive = path, archive
        self._root = _check(path, archive)
        program = io.BytesIO(archive.read(f"{self._root}/data.pkl"))
        try:
            self.content: Any = _Reader(program, path, self._root, archive).load()
            _check_size(path, self.content)
        except PcmError:
            raise
        except Exception as error:  # a hostile program can raise anything
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise PcmError(f"{path} is damaged ({text}): download it again") from error

    def tensor(self, where: Stored) -> Tensor:
        """Read one tensor.

        Raises:
            PcmError: it reaches outside its storage or is larger than it.
        """
        data = bytearray(self._archive.read(f"{self._root}/data/{where.key}"))
        flat = torch.frombuffer(data, dtype=where.dtype) if data else torch.empty(0)
        numel, last = 1, where.offset
        for size, stride in zip(where.size, where.stride, strict=True):
            numel *= size
            last += (size - 1) * stride
        lowest = min([where.offset, *where.size, *where.stride])
        if lowest < 0 or numel > len(flat) or (numel and last >= len(flat)):
            raise PcmError(f"{self.path}: a tensor reaches outside its storage: it is damaged")
        return flat.as_strided(where.size, where.stride, where.offset).clone()

    def tensors(self, entries: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
        """Read the tensors of a state dict whose names start with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): self.tensor(value)
            for name, value in entries.items()
            if isinstance(name, str) and name.startswith(prefix) and isinstance(value, Stored)
        }


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a checkpoint.

    Raises:
        PcmError: no zip file, a damaged one, one whose contents would outgrow it, or a pickle that
            names anything but tensors and plain data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield Archive(path, archive)
    except zipfile.BadZipFile as error:
        raise PcmError(
            f"{path} is no torch zip file ({error}): download it again, or if it was saved before "
            "torch 1.6, load and save it again where you trust it"
        ) from error
    except (OSError, KeyError, RuntimeError, NotImplementedError, EOFError) as error:
        raise PcmError(f"{path} cannot be read ({error}): download it again") from error


def _check(path: Path, archive: zipfile.ZipFile) -> str:
    """Bound what reading can cost, before reading; return the folder that holds everything."""
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if len(entries) > _ENTRIES or any(entry.compress_type for entry in entries):
        raise PcmError(f"{path} holds compressed or countless entries: torch writes none, refused")
    if total > path.stat().st_size:
        raise PcmError(f"{path} would unpack to {total} bytes, more than it has: refused")
    roots = [e.filename[:-9] for e in entries if e.filename.endswith("/data.pkl")]
    if len(roots) != 1:
        raise PcmError(f"{path} is no torch checkpoint: it holds {len(roots)} data.pkl, not one")
    if archive.getinfo(f"{roots[0]}/data.pkl").file_size > _PICKLE_BYTES:
        raise PcmError(f"{path}: its pickle is larger than {_PICKLE_BYTES} bytes: refused")
    order = f"{roots[0]}/byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise PcmError(f"{path} was written on a big-endian machine: save it again on another")
    return roots[0]


class _Reader(pickle._Unpickler):
    """Pure Python unpickler for which every name is a stand-in."""

    def __init__(self, file: io.BytesIO, path: Path, root: str, archive: zipfile.ZipFile) -> None:
        super().__init__(file, encoding="utf-8")
        self._path, self._root, self._archive = path, root, archive
        self._left, self._number_keys = _OPERATIONS, _NUMBER_KEYS
        self._shell = type("Shell", (_Shell,), {"__slots__": ()})  # NEWOBJ wants a class

    def spend(self, count: int = 1) -> None:
        """Count operations.

        Raises:
            PcmError: there were too many.
        """
        self._left -= count
        if self._left < 0:
            raise PcmError(
                f"{self._path}: its pickle takes more than {_OPERATIONS} operations: refused"
            )

    def check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse keys whose hash or comparison takes work.

        Raises:
            PcmError: anything but short texts and not too many numbers.
        """
        for key in keys:
            self.spend()
            if isinstance(key, str | bytes) and len(key) <= _KEY_LENGTH:
                continue
            self._number_keys -= 1
            if not isinstance(key, int | float | None) or self._number_keys < 0:
                raise PcmError(
                    f"{self._path}: its pickle has keys that are neither short texts nor numbers: "
                    "refused"
                )

    def pairs(self, *given: Any) -> _Dict:
        """Stand for ``dict`` and ``OrderedDict``: make one of pairs, with checked keys."""
        if not given:
            return _Dict()
        (rows,) = given
        rows = list(rows.items() if isinstance(rows, dict) else rows)
        self.check_keys(key for key, _ in rows)
        return _Dict(rows)

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name; PcmError for any that tensors do not need."""
        module = "builtins" if module == "__builtin__" else module  # protocol 2
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _Function(_tensor)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _Function(lambda data, *rest: data)
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) in (("collections", "OrderedDict"), ("builtins", "dict")):
            return _Function(self.pairs)
        if (module, name) == ("collections", "defaultdict"):
            return _Function(lambda *args: _Dict())
        if (module, name) in _INERT:
            return _Function(_Shell)
        if module.split(".")[0] == "omegaconf":
            return self._shell
        shown = f"{module}.{name}"[:80].encode("unicode_escape").decode()
        raise PcmError(
            f"{self._path} names {shown}, which is neither a tensor nor plain data: "
            "refused, nothing was executed"
        )

    def persistent_load(self, saved_id: Any) -> _Storage:
        """Return the storage that a tensor lies in, unread."""
        kind, dtype, key, _, numel = saved_id
        size = self._archive.getinfo(f"{self._root}/data/{key}").file_size
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not key.isdigit():
            raise ValueError("a storage that is none")
        if size != numel * dtype.itemsize:
            raise ValueError(f"storage {key} has {size} bytes for {numel} numbers")
        return _Storage(dtype, key)


def _counted(code: int, load: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return an operation that counts itself, and checks what would be hashed."""

    def step(reader: Any) -> None:
        reader.spend()
        if code == pickle.SETITEM[0]:
            reader.check_keys(reader.stack[-2:-1])
        elif code in (pickle.SETITEMS[0], pickle.DICT[0]):
            reader.check_keys(reader.stack[0::2])
        elif code in (pickle.ADDITEMS[0], pickle.FROZENSET[0]):
            reader.check_keys(reader.stack)
        load(reader)

    return step


_FORBIDDEN = (pickle.BYTEARRAY8[0], pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0])
_Reader.dispatch = {
    code: _counted(code, load)
    for code, load in pickle._Unpickler.dispatch.items()
    if code not in _FORBIDDEN
}


def _check_size(path: Path, content: Any) -> None:
    """Refuse what is larger than any checkpoint once its repeated parts are written out.

    A list of ten lists of ten lists is small in a pickle that repeats them, and not for who walks
    it. Shells are left out: only :func:`plain` looks into them, and counts.
    """
    sizes: dict[int, int] = {}

    def size(value: Any, depth: int) -> int:
        if isinstance(value, dict):
            parts: Iterable[Any] = value.values()
        elif isinstance(value, list | tuple | set | frozenset) and not isinstance(value, Stored):
            parts = value
        else:
            return 1
        if id(value) not in sizes:
            if depth > _DEPTH:
                raise PcmError(
                    f"{path}: its pickle is nested too deeply, or within itself: refused"
                )
            sizes[id(value)] = _NODES + 1  # as long as it is open: within itself
            sizes[id(value)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(value)]

    if size(content, 0) > _NODES:
        raise PcmError(f"{path}: its pickle repeats itself to more than {_NODES} entries: refused")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: object) -> Stored:
    numbers = [offset, *size, *stride]
    whole = all(type(n) is int for n in numbers)
    if not isinstance(storage, _Storage) or not whole or len(size) != len(stride):
        raise ValueError("a tensor that is none")
    return Stored(storage.dtype, storage.key, offset, tuple(size), tuple(stride))


def plain(value: Any) -> Any:
    """Turn a config of OmegaConf, read as shells, into dicts, lists and scalars.

    Raises:
        PcmError: nested deeper or larger than any config is.
    """
    visited = 0

    def walk(value: Any, depth: int) -> Any:
        nonlocal visited
        visited += 1
        if depth > _DEPTH or visited > _ENTRIES:
            raise PcmError("the checkpoint's config is nested too deeply or too large: refused")
        if isinstance(value, _Shell):
            state = value.state if isinstance(value.state, dict) else {}
            return walk(state.get("_content", state.get("_val")), depth + 1)
        if isinstance(value, dict):
            return {str(k): walk(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [walk(v, depth + 1) for v in value]
        return value if isinstance(value, str | int | float | bool | None) else None

    return walk(value, 0)
