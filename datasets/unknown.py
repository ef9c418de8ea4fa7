"""What a file or folder is that nothing here reads, and what to do with it."""

import zipfile
from pathlib import Path

Named = tuple[str, str]
"""What was found, and what to do."""

_WRITE = "write its arrays with pcm_policy.datasets.formats.writing.write_replay"
_LEROBOT = f"convert it to LeRobot with the tool of its project, or {_WRITE}"
LFS = b"version https://git-lfs.github.com/spec/"
"""How a file begins that stands for one in Git's large file storage."""
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (LFS, "is a Git LFS pointer, not the data", "git lfs pull fetches them"),
    (b"\x89MCAP0\r\n", "is an MCAP log", _LEROBOT),
    (b"#ROSBAG V", "is a ROS bag", _LEROBOT),
    (b"SQLite format 3\0", "is an SQLite database (ROS 2 records its bags so)", _LEROBOT),
    (b"PAR1", "is one parquet file", "name the LeRobot folder that holds meta/ and data/"),
    (b"ARROW1", "is an Arrow file", "name the folder of the data set that it belongs to"),
    (b"\x93NUMPY", "is one NumPy array", f"it has no episodes: {_WRITE}"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it and name what is in it"),
    (b"\xfd7zXZ\0", "is compressed with xz", "unpack it and name what is in it"),
    (b"BZh", "is compressed with bzip2", "unpack it and name what is in it"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it and name what is in it"),
    (b"Rar!", "is a RAR archive", "unpack it and name what is in it"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", "unpack it and name what is in it"),
    (b"MATLAB 5.0", "is a MATLAB file", _WRITE),
    (b"<!DOCTYPE", "is a web page, not the data", "download the file itself"),
    (b"<html", "is a web page, not the data", "download the file itself"),
)  # fmt: skip
_PICKLE = (
    "is a Python pickle, a program that reading would run: it is not opened",
    f"load it where you trust it, then {_WRITE}",
)
_RLDS = ("is RLDS (TensorFlow's TFRecord)", _LEROBOT)
_SUFFIXES: dict[str, Named] = {
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".ckpt"), _PICKLE),
    **dict.fromkeys((".tfrecord", ".tfrecords"), _RLDS),
    **dict.fromkeys((".csv", ".tsv", ".json", ".jsonl", ".txt"), ("is a text file", _WRITE)),
    **dict.fromkeys(
        (".mp4", ".mkv", ".avi", ".webm"), ("is a video", "name the folder that it belongs to")
    ),
    ".db3": ("is a ROS 2 bag", _LEROBOT),
}


def what_it_is(path: Path) -> Named | None:
    """Tell what a path is, where that is known and no format that is read here."""
    if path.is_dir():
        return _folder(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    return _content(path, head)


def _content(path: Path, head: bytes) -> Named | None:
    if not head:
        return None
    start = head.lstrip()
    for magic, found, fix in _MAGIC:
        if start.startswith(magic) or head.startswith(magic):
            return found, fix
    if head[257:262] == b"ustar":
        return "is a tar archive", "unpack it and name what is in it"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return _PICKLE
    if head[:4] == b"PK\x03\x04":
        return _zip(path)
    known = _SUFFIXES.get(path.suffix)
    if ".tfrecord" in path.name:
        known = _RLDS
    return known


def zip_names(path: Path) -> list[str]:
    """Return the names of what a zip file holds; none where it cannot be opened, or is no zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return []


def _zip(path: Path) -> Named | None:
    """Tell what a zip file holds that is no replay buffer."""
    names = zip_names(path)
    if any(name.endswith("data.pkl") for name in names):
        return _PICKLE
    for name in names:
        top = name.removesuffix(".zgroup").removesuffix("zarr.json")
        if top != name and top.count("/") == 1:
            found = f"holds its store in the folder {top}, not at the top"
            return found, f"zip the contents of {top.rstrip('/')}, or unpack it and name that"
    return None


def _folder(path: Path) -> Named | None:
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError:
        return None
    if not names:
        return "is an empty folder", "check the path, or download it"
    return _of_files(names) or _inside(path, names)


def _of_files(names: list[str]) -> Named | None:
    """Tell a folder by the names of its files."""
    if any(".tfrecord" in name for name in names) or {"features.json", "dataset_info.json"} <= {
        *names
    }:
        return _RLDS
    if "state.json" in names and any(name.endswith(".arrow") for name in names):
        return "is a table of Hugging Face datasets (save_to_disk)", _LEROBOT
    if any(name.endswith(".db3") for name in names):
        return _SUFFIXES[".db3"]
    if any(name.endswith(".mcap") for name in names):
        return "is a folder of MCAP logs", _LEROBOT
    files = [name for name in names if name.endswith((".hdf5", ".h5"))]
    if len(files) > 1:
        found = f"is a folder of {len(files)} HDF5 files, as ALOHA records them (one an episode)"
        return found, "convert it to LeRobot, or join them as data/demo_i of one file"
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        return "is a folder of Python pickles, programs that reading would run", _PICKLE[1]
    return None


def _inside(path: Path, names: list[str]) -> Named | None:
    """Find what can be read one or two folders below."""
    marks = (".zgroup", "zarr.json", "meta/info.json", "data/metadata.json")
    below = [path / name for name in names if (path / name).is_dir()]
    for folder in [*below, *(f for b in below for f in sorted(b.iterdir()) if f.is_dir())][:1000]:
        if any((folder / mark).is_file() for mark in marks):
            return "has no zarr group at its root", f"name {folder}"
    files = [n for n in names if n.endswith((".hdf5", ".h5", ".zarr.zip"))]
    if files:
        return "is a folder, and has no zarr group at its root", f"name {path / files[0]}"
    if below and all(folder.name[:1].isdigit() for folder in below):  # versions of RLDS
        for folder in below:
            named = _of_files(sorted(entry.name for entry in folder.iterdir()))
            if named is not None:
                return named
    return None


_LAYOUTS: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"episode_0"}),
        "is the file inside a Minari data set",
        "name its folder, the one that holds data/, or minari:ID",
    ),
    (
        frozenset({"observation", "action"}),
        "holds one trajectory as DROID records it",
        "convert the folder to LeRobot with DROID's tool",
    ),
)


def hdf5_layout(names: set[str]) -> Named:
    """Tell an HDF5 file of another layout than robomimic's by what is at its top."""
    for marks, found, fix in _LAYOUTS:
        if marks <= names:
            return found, fix
    there = ", ".join(sorted(names)[:5]) or "nothing"
    return f"holds {there}", "expected data/demo_0, data/demo_1 ...: is it robomimic's?"
