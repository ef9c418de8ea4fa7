"""Policy folders.

::

    policy/
        config.json               format version, policy config
        model.safetensors         network.*, obs_normalizer.*, action_normalizer.*, head.*, vision.*
                                  (weights in 16 bits if they were rounded to it, read as float32)
        observations.safetensors  held-out observations, for benchmarks (optional)
        certificates.json         measured safety factors of certificates (optional)
        README.md                 card: data, command, steps, scores (optional)

Nothing here is ever unpickled.
"""

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.files import atomic_folder, read_json, to_json
from pcm_policy.policy.config_file import FORMAT_VERSION, read_config
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.held_out import read_held_out, write_held_out
from pcm_policy.policy.hub import upload
from pcm_policy.policy.layout import float32_by_default, layout
from pcm_policy.policy.places import resolve
from pcm_policy.policy.tensors import check_tensors, load_tensors, packed, save_tensors
from pcm_policy.solvers.certificate import UNCALIBRATED, Certificates

if TYPE_CHECKING:  # which asks this file to read and write
    from pcm_policy.policy.layout import Build
    from pcm_policy.policy.policy import DiffusionPolicy

CERTIFICATES, CERTIFY = "certificates.json", "pcm-bench certify"
FRONT_MATTER = "---\nlibrary_name: pcm_policy\npipeline_tag: robotics\ntags: [robotics]\n---\n"
"""What the hub reads at the head of a card."""


def save_policy(
    policy: "DiffusionPolicy",
    path: str | Path,
    *,
    card: str | None = None,
    observations: Tensor | None = None,
    sights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a policy folder atomically.

    Args:
        policy: the policy, with its head if it has one.
        path: the folder; an existing one is replaced.
        card: text of ``README.md``.
        observations: ``(n, To, Do)`` raw held-out observations.
        sights: of a policy with cameras, some of them before they were encoded, by entry.

    Raises:
        PcmError: the folder cannot be written.
    """
    with atomic_folder(Path(path)) as folder:
        config = {"format_version": FORMAT_VERSION, "policy": policy.config.to_dict()}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {k: v.detach().cpu().contiguous() for k, v in policy.state_dict().items()}
        save_tensors(packed(tensors), folder / "model.safetensors")
        if observations is not None:
            write_held_out(folder / "observations.safetensors", observations, sights or {})
        if policy.certificates is not None:
            text = to_json(policy.certificates.to_json())
            (folder / CERTIFICATES).write_text(text, encoding="utf-8")
        if card is not None:
            head = "" if card.startswith("---\n") else FRONT_MATTER
            (folder / "README.md").write_text(head + card, encoding="utf-8")


def push_policy(
    policy: "DiffusionPolicy", repo: str, *, private: bool, token: str | None, card: str | None
) -> str:
    """Write a policy and commit it to the hub; see :meth:`DiffusionPolicy.push_to_hub`."""
    with tempfile.TemporaryDirectory(prefix="pcm-push-") as scratch:
        folder = Path(scratch, "policy")
        save_policy(policy, folder, card=card, observations=policy.held_out, sights=policy.sights)
        return upload(folder, repo, private=private, token=token, message="Add a pcm_policy policy")


def load_policy(path: str | Path, build: "Build") -> "DiffusionPolicy":
    """Read a policy folder; see :meth:`DiffusionPolicy.from_pretrained`.

    Args:
        path: the folder, or a name of one.
        build: makes the policy of a config, with any weights.

    Raises:
        PcmError: naming the file and the entry that is missing, damaged or does not fit.
    """
    folder = resolve(path)
    config = read_config(folder / "config.json")
    file = folder / "model.safetensors"
    tensors = load_tensors(file)
    shapes = layout(config, f"{folder / 'config.json'}", len(tensors), build)
    check_tensors(file, tensors, shapes)
    with float32_by_default():
        policy = build(config)
    try:
        policy.load_state_dict(tensors)
    except PcmError as error:
        raise PcmError(f"{file}: {error}") from error
    if config.head is not None and config.head.base != fingerprint(policy.network):
        raise PcmError(
            f"{file}: the PCM head belongs to base weights {config.head.base}, the file holds "
            f"{fingerprint(policy.network)}: run pcm-distill on this base"
        )
    if (folder / "observations.safetensors").exists():
        policy.held_out, policy.sights = read_held_out(folder / "observations.safetensors", config)
    policy.certificates = load_certificates(folder, fingerprint(policy))
    if (folder / "README.md").exists():
        policy.card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    return policy.eval()


def load_certificates(folder: Path, weights: str) -> Certificates | None:
    """Return the safety factors that were measured of a policy, None if there are none.

    Those of other weights are left out with a warning.

    Args:
        folder: of the policy.
        weights: :func:`fingerprint` of the whole policy.

    Raises:
        PcmError: the file is damaged; the message names the entry.
    """
    file = folder / CERTIFICATES
    if not file.exists():
        return None
    try:
        found = Certificates.from_json(read_json(file))
    except PcmError as error:
        raise PcmError(f"{file}: {error}; restore it, or delete it and run {CERTIFY}") from error
    if found.weights == weights:
        return found
    warnings.warn(
        f"{file} was measured with weights {found.weights}, these are {weights}: not used, "
        f"certificates are {UNCALIBRATED}; run {CERTIFY}",
        stacklevel=2,
    )
    return None
