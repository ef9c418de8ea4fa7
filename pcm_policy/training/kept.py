"""Chunks that the base has solved, kept in files: they take minutes, and come again."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pcm_policy.files import to_json, write_file
from pcm_policy.policy.tensors import save_tensors
from pcm_policy.training.saying import say

STATES, MADE_FROM = "states", "made_from"


@dataclass(frozen=True)
class Kept:
    """A folder of solved pools, those of one run.

    Attributes:
        folder: it is made when the first pool is written.
        made_from: settings and digests that the solves depend on. A file that was made from
            something else is written anew.
    """

    folder: Path
    made_from: Mapping[str, Any]

    def __call__(self, name: str, solve: Callable[[], Tensor]) -> Tensor:
        """Return the states that a file holds; without one, solve them and write it.

        Args:
            name: of the file.
            solve: makes the states, on the device where they are wanted.

        Raises:
            PcmError: the file cannot be written.
        """
        path = self.folder / f"{name}.safetensors"
        found = self._read(path)
        if found is None:
            found = solve()
            kept, said = {STATES: found.cpu().contiguous()}, {MADE_FROM: self._digest}
            write_file(path, lambda scratch: save_tensors(kept, scratch, said))
        return found

    @property
    def _digest(self) -> str:
        return hashlib.sha256(to_json(self.made_from).encode()).hexdigest()

    def _read(self, path: Path) -> Tensor | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get(MADE_FROM) == self._digest:
                    found: Tensor = file.get_tensor(STATES)
                    return found
        except (SafetensorError, OSError) as error:
            say(f"{path} is damaged ({error}): solving it again")
        return None
