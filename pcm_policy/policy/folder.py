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

import hashlib
import json
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from pcm_policy.errors import PcmError
from pcm_policy.files import atomic_folder, read_json, to_json
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.hub import POLICY_FILES, download, hub_id, upload
from pcm_policy.solvers.certificate import UNCALIBRATED, Certificates

if TYPE_CHECKING:  # which asks this file to read and write
    from pcm_policy.policy.policy import DiffusionPolicy

    Build = Callable[[PolicyConfig], DiffusionPolicy]

FORMAT_VERSION = 1
CERTIFICATES, CERTIFY = "certificates.json", "pcm-bench certify"
LEFT_OUT: dict[str, dict[str, Any]] = {
    "window": {"width": 96, "nodes": None, "newton": False, "guess_width": 0, "guess_noises": 1},
    "unet1d": {"down_dims": [256, 512, 1024], "step_embed_dim": 256},
    "transformer": {"n_layer": 8, "n_emb": 256, "p_drop_attn": 0.1},
}
"""What a file of this version means by options of a network or head that it does not have: they
were other classes' defaults once, and stay what they were whatever these become."""
FRONT_MATTER = "---\nlibrary_name: pcm_policy\npipeline_tag: robotics\ntags: [robotics]\n---\n"
"""What the hub reads at the head of a card."""
_SIGHT = "sight."
RELEASED = Path(__file__).parents[1] / "released"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        PcmError: the file is missing or damaged.
    """
    if not path.is_file():
        raise PcmError(f"{path} does not exist: name a policy folder written by pcm-train")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PcmError(f"{path} is damaged ({error}): restore it or train again") from error


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def fingerprint(network: nn.Module) -> str:
    """Return a digest of a module's weights: what a head, or a measured factor, belongs to."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def whole_fingerprint(policy: "DiffusionPolicy") -> str:
    """Return a digest of all that a policy is: its config, weights of all parts, ranges."""
    config = json.dumps(policy.config.to_dict(), sort_keys=True)
    return hashlib.sha256((config + fingerprint(policy)).encode()).hexdigest()[:16]


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round weights to 16 bits in place; they stay float32, and are stored in half the room.

    Raises:
        PcmError: a weight is too large for 16 bits.
    """
    for name, value in module.state_dict().items():
        if value.dtype == torch.float32:
            rounded = value.half().float()
            if not rounded.isfinite().all():
                raise PcmError(f"{name} does not fit 16 bits: leave weights=float32")
            value.copy_(rounded)


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as they are stored: weights in 16 bits where none of them loses by it."""
    wide = {k: v for k, v in tensors.items() if v.dtype == torch.float32 and "normalizer" not in k}
    if all(torch.equal(v.half().float(), v) for v in wide.values()):
        return {**tensors, **{k: v.half() for k, v in wide.items()}}
    return dict(tensors)


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
        save_tensors(_packed(tensors), folder / "model.safetensors")
        if observations is not None:
            held_out = observations.detach().cpu().contiguous()
            raw = {f"{_SIGHT}{k}": v.contiguous() for k, v in (sights or {}).items()}
            save_tensors({"observations": held_out, **raw}, folder / "observations.safetensors")
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


def resolve(path: str | Path) -> Path:
    """Return the folder that ``policy=...`` names.

    ``released/NAME`` ships with the package; ``OWNER/NAME``, ``OWNER/NAME@REVISION`` or
    ``hf://OWNER/NAME`` is fetched from the Hugging Face hub, unless a folder has that name.

    Raises:
        PcmError: there is no such folder or model.
    """
    folder = Path(path)
    if not folder.exists() and folder.parts[:1] == ("released",):
        folder = RELEASED.joinpath(*folder.parts[1:])
    elif not folder.exists() and (named := hub_id(path)) is not None:
        return download(*named, POLICY_FILES)
    if not folder.is_dir():
        shipped = ", ".join(f"released/{p.name}" for p in sorted(RELEASED.glob("*/")))
        raise PcmError(
            f"no policy folder {path}: name one written by pcm-train, OWNER/NAME on the hub, or "
            f"use {shipped}"
        )
    return folder


def resolve_data(path: str) -> str:
    """Return the replay buffer that a path names; ``released/NAME`` ships with the package."""
    file = Path(path)
    if not file.exists() and file.parts[:1] == ("released",):
        return str(RELEASED / f"{file.name}.zarr.zip")
    return path


def config_of(path: str | Path) -> PolicyConfig:
    """Read what a policy folder says of its policy, without its weights.

    Raises:
        PcmError: there is no such policy, or it is damaged.
    """
    return _read_config(resolve(path) / "config.json")


def load_policy(path: str | Path, build: "Build") -> "DiffusionPolicy":
    """Read a policy folder; see :meth:`DiffusionPolicy.from_pretrained`.

    Args:
        path: the folder, or a name of one.
        build: makes the policy of a config, with any weights.

    Raises:
        PcmError: naming the file and the entry that is missing, damaged or does not fit.
    """
    folder = resolve(path)
    config = _read_config(folder / "config.json")
    file = folder / "model.safetensors"
    tensors = load_tensors(file)
    shapes = layout(config, f"{folder / 'config.json'}", len(tensors), build)
    _check_tensors(file, tensors, shapes)
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
        policy.held_out, policy.sights = _held_out(folder / "observations.safetensors", config)
    policy.certificates = load_certificates(folder, fingerprint(policy))
    if (folder / "README.md").exists():
        policy.card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    return policy.eval()


def layout(config: PolicyConfig, name: str, entries: int, build: "Build") -> dict[str, Tensor]:
    """Return the names, shapes and types of a policy's tensors, without their memory.

    A config may name any size and any depth: no more is built than a file of so many entries could
    hold.

    Args:
        config: of the policy.
        name: of its file, for messages.
        entries: tensors that there are.
        build: makes the policy of a config.

    Raises:
        PcmError: a network or head that cannot be built, or one of far more tensors.
    """
    try:
        with torch.device("meta"), _Unfilled(), float32_by_default(), _at_most(4 * entries + 1000):
            return dict(build(config).state_dict())
    except PcmError as error:
        raise PcmError(f"{name}: {error}") from error
    except Exception as error:  # torch raises half a dozen kinds for sizes that are none
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PcmError(f"{name} describes no policy that can be built ({reason})") from error


class _Unfilled(TorchFunctionMode):
    """Leave normal draws out: tensors without memory have no values.

    Drawing for such a tensor makes torch import its compiler and sympy, 80 MB.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":
            return args[0] if args else given["tensor"]
        return function(*args, **given)


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Build modules in float32, whatever the caller's default type is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Refuse to build more than so many parameters, in this thread."""
    thread, count = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise PcmError(f"it describes more than {most} weights, which its file does not hold")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def _read_config(file: Path) -> PolicyConfig:
    if not file.is_file():
        raise PcmError(f"{file} does not exist: name a policy folder written by pcm-train")
    try:
        data = read_json(file)
    except PcmError as error:
        raise PcmError(f"{file} is not a policy config: {error}") from error
    if not isinstance(data, dict) or not {"format_version", "policy"} <= set(data):
        raise PcmError(f"{file} is not a policy config: it lacks format_version or policy")
    version = data["format_version"]
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise PcmError(
            f"{file} has format version {version}, this package reads {FORMAT_VERSION}: "
            "use the matching version of pcm_policy"
        )
    try:
        if not isinstance(data["policy"], dict):
            raise PcmError("policy is not a dictionary of settings")
        config = PolicyConfig.from_dict(data["policy"])
    except PcmError as error:
        raise PcmError(f"{file}: {error}") from error
    own = _meant(config.network, config.network_options)
    head = config.head
    if head is not None:
        head = replace(head, options=_meant(head.name, head.options))
    return replace(config, network_options=own, head=head)


def _meant(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network or head, with those that a file leaves out."""
    left = {k: v for k, v in LEFT_OUT.get(name, {}).items() if k not in options}
    return {**options, **left}


def _check_tensors(file: Path, have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    missing = sorted(set(want) - set(have))
    if missing and missing[0].startswith("head."):
        raise PcmError(
            f"{file} lacks {missing[0]} and {len(missing) - 1} more of its head, which an earlier "
            "version may have distilled: run pcm-distill on its base again"
        )
    if missing:
        kind = "its normaliser" if "normalizer" in missing[0] else "an entry"
        raise PcmError(
            f"{file} lacks {kind} ({missing[0]} and {len(missing) - 1} more): restore it or train "
            "again; a policy never runs without its normaliser"
        )
    extra = sorted(set(have) - set(want))
    if extra:
        raise PcmError(f"{file} has an entry {extra[0]} that config.json does not account for")
    for name, tensor in want.items():
        half = have[name].dtype == torch.float16 and tensor.dtype == torch.float32
        if have[name].shape != tensor.shape or (have[name].dtype != tensor.dtype and not half):
            raise PcmError(
                f"{file}: {name} is {have[name].dtype} {tuple(have[name].shape)}, config.json says "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )


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


def held_out_observations(path: str | Path) -> Tensor:
    """Read the ``(n, To, Do)`` raw observations that a policy folder carries for benchmarks.

    Raises:
        PcmError: the folder has none.
    """
    return _held_out(resolve(path) / "observations.safetensors", None)[0]


def _held_out(file: Path, config: PolicyConfig | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Read observations and the images of some of them, and check that they are the policy's."""
    tensors = load_tensors(file)
    found = tensors.get("observations")
    if found is None or found.ndim != 3 or not found.is_floating_point():
        raise PcmError(f"{file} holds no (n, To, Do) array 'observations': train again")
    if config is not None and found.shape[1:] != (config.obs_steps, config.obs_dim):
        raise PcmError(
            f"{file}: observations have shape {tuple(found.shape)}, this policy takes "
            f"(n, {config.obs_steps}, {config.obs_dim}): restore it or train again"
        )
    if not bool(found.isfinite().all()):
        raise PcmError(f"{file}: observations hold NaN or infinity: restore it or train again")
    return found, {k.removeprefix(_SIGHT): v for k, v in tensors.items() if k.startswith(_SIGHT)}


def held_out_sights(path: str | Path) -> list[dict[str, Any]]:
    """Read the held-out observations with images of a policy folder, each as ``predict`` takes it.

    There are none where the policy has no cameras, or was imported.
    """
    _, sights = _held_out(resolve(path) / "observations.safetensors", None)
    found = {name: values.numpy() for name, values in sights.items()}
    count = min(map(len, found.values()), default=0)
    return [{k: v[i] for k, v in found.items() if v[i].size} for i in range(count)]
