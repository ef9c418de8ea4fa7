"""``convert`` of a data set in parts: each part on its own, several at once.

The target is a folder of parts with a manifest, as the source is. A part is written by one process
from start to end, so the bytes do not depend on how many there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pcm_policy.datasets.convert import Converted, convert
from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.manifest import (
    MANIFEST,
    is_manifest,
    read_manifest,
    refuse_missing,
    write_manifest,
)
from pcm_policy.datasets.formats.registry import load_formats
from pcm_policy.errors import PcmError
from pcm_policy.files import read_json, to_json, write_text

BEGUN = ".converting.json"
"""In the target until all parts are there: what they are made of."""
Job = tuple[Path, Path, Mapping[str, Any], Sequence[str]]


def convert_parts(
    source: Path,
    target: Path,
    processes: int,
    options: Mapping[str, Any],
    formats: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Convert every part of a data set; the same call again goes on where one was interrupted.

    Args:
        source: a folder with a manifest.
        target: ``DIR/*.zarr`` or another name with a ``*``, which stands for a part's name.
        processes: parts that are converted at once.
        options: those of :func:`~pcm_policy.datasets.convert.convert`.
        formats: modules that register formats of one's own.
        say: is told of every part that is there.

    Raises:
        PcmError: the source has no manifest or lacks a file, two parts would have one name, the
            target holds something else, or a part cannot be converted.
    """
    pairs = targets(source, target)
    made_of = {"source": [str(p.resolve()) for p in pairs], **options, "target": target.name}
    _begin(target.parent, made_of)
    jobs: list[Job] = []
    for part, place in pairs.items():
        if place.exists():
            say(f"{place} is there already")
        else:
            jobs.append((part, place, options, formats))
    for (part, place, *_), found in zip(jobs, _converted(jobs, processes), strict=True):
        if isinstance(found, str):
            raise PcmError(f"{found}; the parts before {part.name} are in {place.parent}")
        say(f"{part.name}: {found.describe()}")
    write_manifest(target.parent)
    (target.parent / BEGUN).unlink()


def targets(source: Path, target: Path) -> dict[Path, Path]:
    """Return where each part of a data set goes."""
    if not is_manifest(source):
        fix = f"pcm-data manifest {source} makes the entries of a folder the parts of a data set"
        raise ReplayError(source, MANIFEST, "is missing", fix)
    if target.name.count("*") != 1 or "*" in str(target.parent):
        raise PcmError(f"target={target}: name a folder and a file with one *, as DIR/*.zarr")
    found: dict[Path, Path] = {}
    for part in read_manifest(source):
        refuse_missing(source, part)
        place = target.parent / target.name.replace("*", part.name.split(".")[0])
        if place in found.values():
            raise PcmError(f"{source}: two parts would be {place}: give them other names")
        found[source / part.name] = place
    return found


def _begin(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Begin a conversion in a folder, or go on with it; PcmError if it holds anything else."""
    note = folder / BEGUN
    if note.exists():
        if read_json(note) != made_of:
            raise PcmError(f"{folder} has parts of another conversion: remove it, or name another")
    elif folder.exists() and any(folder.iterdir()):
        raise PcmError(f"{folder} is not empty: name a new folder for the parts")
    else:
        write_text(note, to_json(made_of))


def _converted(jobs: Sequence[Job], processes: int) -> Iterator[Converted | str]:
    """Yield what every part became, or why it could not, in their order."""
    if processes == 1:
        yield from map(_one, jobs)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        yield from pool.map(_one, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _one(job: Job) -> Converted | str:
    source, target, options, formats = job
    load_formats(formats)
    try:
        return convert(source, target, **options)
    except PcmError as error:  # as text: not every error survives the way between processes
        return str(error)
