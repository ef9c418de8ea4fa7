"""A diffusion policy: observations in, action chunk out, by any solver.

Timing of one prediction, with ``To`` observed, ``Ta`` executed and ``T`` predicted steps::

    chunk      |  0  ...  To-1 | To ...  To+Ta-2 | ...  T-1 |
    observed   |  o   ...   o  |                 |          |
    executed   |            a  |  a   ...   a    |          |

The chunk starts with the first observed frame; the first executed action belongs to the newest one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pcm_policy.checks import numbers
from pcm_policy.errors import PcmError
from pcm_policy.heads import Head, build_head
from pcm_policy.limits import ActionLimits
from pcm_policy.networks import build_network
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.inputs import check_guess, check_noise, check_prefix, check_previous
from pcm_policy.policy.normalize import Normalizer
from pcm_policy.policy.observe import observe
from pcm_policy.policy.vision import Vision
from pcm_policy.runtime.inputs import Execute, Inputs, eager
from pcm_policy.runtime.precision import precision_of
from pcm_policy.runtime.turns import TURNS
from pcm_policy.sampling.denoise import Denoiser, Network, Prefix, inpainting
from pcm_policy.sampling.noise import Noise, generator_noise
from pcm_policy.sampling.samplers import AffineSampler, SamplerConfig, build_sampler
from pcm_policy.solvers.certificate import Certificate, Certificates, trust, usual_safety
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.loop import start
from pcm_policy.solvers.newton import mean_jacobian
from pcm_policy.solvers.registry import Solver, read
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.step import Known, needs
from pcm_policy.solvers.system import Iterate, System

if TYPE_CHECKING:
    from pcm_policy.runtime.config import RuntimeConfig


@dataclass(frozen=True)
class Prediction:
    """What :meth:`DiffusionPolicy.predict` returns.

    Attributes:
        action: ``(B, Ta, Da)`` actions to execute, raw units, finite, within the limits.
        chunk: ``(B, T, Da)`` the whole predicted chunk, raw units, not limited.
        solve: the result of the solve, in normalised units.

    Example:
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> found = policy.predict(np.full((2, 20), 256.0))
        >>> found.action.shape, found.chunk.shape, found.solve.rounds
        ((1, 8, 2), (1, 16, 2), 2)
    """

    action: NDArray[np.float32]
    chunk: NDArray[np.float32]
    solve: SolveResult


class DiffusionPolicy(nn.Module):
    """Base network, normalisers and, if distilled, a PCM head.

    Args:
        config: the policy's config; a head in it is built as well.
        seed: seed of the policy's own generator, used where no noise is given.

    Example:
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> policy.predict(np.full((2, 20), 256.0)).action.shape  # (To, Do) -> (B, Ta, Da)
        (1, 8, 2)
        >>> policy.default_solver().label
        'pcm 2 (ddim-16)'
    """

    def __init__(self, config: PolicyConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.limits: ActionLimits | None = None
        self.execute: Execute = eager
        # what came with the policy in its folder, and is saved with it
        self.card: str | None = None
        self.held_out: Tensor | None = None  # raw observations
        self.sights: dict[str, Tensor] = {}  # some of them before they were encoded
        self.certificates: Certificates | None = None  # measured safety factors
        self.network = build_network(
            config.network,
            config.chunk_shape[1],
            config.horizon,
            config.network_cond_dim,
            config.network_options,
        )
        self.vision = None if config.vision is None else Vision(config.vision)
        self.obs_normalizer = Normalizer(config.obs_dim)
        self.action_normalizer = Normalizer(config.action_dim)
        self.head: Head | None = None
        if config.head is not None:
            self.head = build_head(
                config.head.name,
                self.network,
                config.head.sampler.steps,
                config.chunk_shape[1],
                config.horizon,
                config.cond_dim,
                config.head.options,
            )
        self._generator = torch.Generator().manual_seed(seed)
        self._samplers: dict[SamplerConfig, AffineSampler] = {}
        self._jacobians: dict[SamplerConfig, Jacobian] = {}
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]
        self.eval()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: str | torch.device = "cpu", seed: int = 0
    ) -> "DiffusionPolicy":
        """Load a policy.

        Args:
            path: a folder, one that ships with the package (``released/pusht``), or ``OWNER/NAME``
                on the Hugging Face hub, with ``@REVISION`` if wanted.
            device: where it goes.
            seed: of the policy's own generator.

        Raises:
            PcmError: the folder, one of its files or one of their entries is missing or damaged.
        """
        from pcm_policy.policy.folder import load_policy

        return load_policy(path, lambda config: cls(config, seed=seed)).to(device)

    def save_pretrained(self, path: str | Path) -> None:
        """Write the policy folder atomically, with card and observations if it came with some.

        See :mod:`pcm_policy.policy.folder`.
        """
        from pcm_policy.policy.folder import save_policy

        save_policy(self, path, card=self.card, observations=self.held_out, sights=self.sights)

    def check(self) -> None:
        """Refuse statistics that would switch the gates off, and weights that are not finite.

        Runs by itself after ``load_state_dict``, by whoever calls it.

        Raises:
            PcmError: naming the entry and its dimension.
        """
        self.obs_normalizer.check("obs_normalizer")
        self.action_normalizer.check("action_normalizer")
        for name, value in self.state_dict().items():
            ranges = name.endswith(("normalizer.low", "normalizer.high"))  # may be unknown
            if value.is_floating_point() and not ranges and not bool(value.isfinite().all()):
                raise PcmError(f"{name} holds NaN or infinity: restore it or train again")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process or a copy cannot have: the generator."""
        return dict(self.__dict__) | {"_generator": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the generator again."""
        generator = torch.Generator()
        generator.set_state(state["_generator"])
        super().__setstate__(state | {"_generator": generator})  # type: ignore[no-untyped-call]

    def push_to_hub(
        self, repo: str, *, private: bool = False, token: str | None = None, card: str | None = None
    ) -> str:
        """Commit the policy to ``OWNER/NAME`` on the Hugging Face hub; returns the address.

        Args:
            repo: the model; it is created if there is none.
            private: whether a new one is private.
            token: None for the one that ``hf auth login`` stored.
            card: text of ``README.md``; None leaves the hub's as it is.

        Raises:
            PcmError: huggingface_hub is missing, or the hub refuses or cannot be reached.
        """
        from pcm_policy.policy.folder import push_policy

        return push_policy(self, repo, private=private, token=token, card=card)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DiffusionPolicy":
        """Move the measured Jacobians with the weights."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = {k: v.to(self.device, self.dtype) for k, v in self._jacobians.items()}
        self._jacobians = moved
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.network.parameters()).dtype

    def sampler(self, config: SamplerConfig) -> AffineSampler:
        """Return the coefficients of a sampler on this policy's device."""
        kept = self._samplers.get(config)
        if kept is None or kept.p.device != self.device or kept.p.dtype != self.dtype:
            kept = build_sampler(self.config.schedule, config).to(self.device, self.dtype)
            self._samplers[config] = kept
        return kept

    def solver(self, values: Mapping[str, Any] | None = None) -> Solver:
        """Build a solver from flat settings; what is None or unsaid comes from this policy.

        A solver that needs the base's Jacobian has it measured here, once per sampler, on the
        observations that came with the policy. The safety factor, if unsaid, is the one that was
        measured for the sampler in the precision that solves have now, see :meth:`use`.

        Args:
            values: as ``solver=...`` takes them; None for the policy's usual solver: two PCM rounds
                if there is a head, else its own sampler, sequentially.

        Raises:
            PcmError: unknown or invalid settings, a sampler that the head was not trained for, or
                one that the step cannot solve for.
        """
        found = self.complete(read(values or {}, self._known()))
        found.step.check(self.sampler(found.sampler))
        if (values or {}).get("safety") is None:
            found = self.cautious(found)
        missing = "jacobian" in needs(found.step) and found.sampler not in self._jacobians
        if missing and not found.uses_head and self.held_out is not None:
            self.calibrate(self.held_out[:128], found.sampler)
        return found

    def calibrated(self, sampler: SamplerConfig) -> tuple[Certificate, ...]:
        """Return what was measured of a sampler's certificates in the precision of the solves."""
        found, precision = self.certificates, precision_of(self.execute, self.dtype)
        return () if found is None else found.find(sampler, precision)

    def cautious(self, solver: Solver) -> Solver:
        """Return a complete solver with the safety factor that was measured for it, if one was."""
        safety = usual_safety(solver.step, self.calibrated(solver.sampler))
        same = not solver.step.limits or safety == solver.stop.safety
        return solver if same else replace(solver, stop=replace(solver.stop, safety=safety))

    def trust(self, solver: Solver) -> str:
        """Return what is known of a solver's certificates: their coverage, or ``uncalibrated``.

        Args:
            solver: complete, see :meth:`complete`.
        """
        return trust(solver.step, solver.stop, self.calibrated(solver.sampler))

    def default_solver(self) -> Solver:
        """Return the policy's usual solver."""
        return self.solver()

    def complete(self, solver: Solver) -> Solver:
        """Return a solver with its sampler: the head's if it uses the head, else the policy's.

        Raises:
            PcmError: it uses a head and there is none, or one that was trained for another sampler.
        """
        head = self.config.head if solver.uses_head else None
        if solver.uses_head and head is None:
            raise PcmError("this policy has no PCM head: run pcm-distill, or use solver=picard")
        own = self.config.sampler if head is None else head.sampler
        if solver.sampler is None:
            return replace(solver, sampler=own)
        if head is not None and solver.sampler != own:
            have, want = asdict(solver.sampler), asdict(own)
            key = next(k for k in want if have[k] != want[k])
            raise PcmError(
                f"the PCM head was trained for sampler {key}={want[key]!r}, not {have[key]!r}: "
                f"leave solver.{'sampler' if key == 'name' else key} out or distil another head"
            )
        return solver

    def _known(self) -> Known:
        """Return what settings that are not said mean for this policy."""
        config, head = self.config, self.config.head
        if head is None or self.head is None:
            return Known(config.sampler, config.schedule.train_steps)
        return Known(
            config.sampler,
            config.schedule.train_steps,
            method="pcm",
            head_sampler=head.sampler,
            head_rounds=head.rounds,
            head_jacobian=self.head.jacobian(self.sampler(head.sampler)) is not None,
        )

    def condition(self, obs: Tensor, prefix: Prefix | None = None) -> Tensor:
        """Map raw observations ``(B, To, Do)`` and what is known already to ``(B, C)``."""
        return self.join(self.obs_normalizer.normalize(obs).flatten(1), prefix)

    def join(self, seen: Tensor, prefix: Prefix | None) -> Tensor:
        """Put normalised observations ``(B, To * Do)`` and a prefix side by side, ``(B, C)``."""
        steps = self.config.prefix_steps
        if steps == 0:
            return seen
        width = steps * (self.config.action_dim + 1)
        shown = seen.new_zeros(len(seen), width) if prefix is None else prefix.features(steps)
        return torch.cat([seen, shown], dim=1)

    def raw_chunk(self, sample: Tensor) -> Tensor:
        """Map the actions of a normalised chunk ``(B, T, ...)`` to raw units, float32."""
        return self.action_normalizer.unnormalize(sample[..., : self.config.action_dim]).float()

    def denoiser(
        self, cond: Tensor, sampler: SamplerConfig, prefix: Prefix | None = None
    ) -> Denoiser:
        """Return the map ``D`` for conditions ``(B, C)``."""
        config, observed = self.config, None
        if config.inpainting:
            seen = cond.view(len(cond), config.obs_steps, config.obs_dim)
            observed = inpainting(seen, config.horizon, config.action_dim)
            prefix = None if prefix is None else prefix.beside(config.obs_dim)
        return Denoiser(
            self.network,
            self.sampler(sampler),
            cond,
            config.prediction,
            config.clip,
            prefix,
            observed=observed,
        )

    def known_prefix(self, actions: ArrayLike | Tensor, overwrite_input: bool = False) -> Prefix:
        """Turn the next actions, decided already, into a prefix of the next chunk.

        Args:
            actions: ``(B, n, Da)`` raw actions; the first belongs to the newest observation. A
                tensor on the policy's device stays there.
            overwrite_input: see :class:`~pcm_policy.sampling.denoise.Prefix`.

        Raises:
            PcmError: a wrong shape, more actions than the chunk has, or one that is not finite.
        """
        if not isinstance(actions, Tensor):
            actions = torch.from_numpy(numbers("prefix", actions).astype(np.float32))
        array, config = actions, self.config
        first = config.obs_steps - 1
        room = config.horizon - first
        if array.ndim != 3 or array.shape[2] != config.action_dim or array.shape[1] > room:
            raise PcmError(
                f"prefix has shape {tuple(array.shape)}: expected (B, n, {config.action_dim}) with "
                f"n at most {room}"
            )
        if not bool(array.isfinite().all()):
            raise PcmError("prefix has an action that is not finite")
        given = array.to(self.device, self.dtype)
        values = given.new_zeros(array.shape[0], config.horizon, config.action_dim)
        values[:, first : first + array.shape[1]] = self.action_normalizer.normalize(given)
        step = torch.arange(config.horizon, device=self.device)[None, :, None]
        known = (step >= first) & (step < first + array.shape[1])
        return Prefix(values, known, overwrite_input)

    def calibrate(self, obs: Tensor, config: SamplerConfig, seed: int = 0) -> None:
        """Measure the mean Jacobian of one sampler, which ``method="newton"`` needs.

        Args:
            obs: ``(n, To, Do)`` raw observations; a hundred are enough.
            config: the sampler.
            seed: of the noise.
        """
        generator = torch.Generator().manual_seed(seed)
        noise = self.draw_noise(len(obs), config, generator)
        noise = noise.to(self.device, self.dtype)
        denoise = self.denoiser(self.condition(obs.to(self.device, self.dtype)), config)
        diagonal = mean_jacobian(denoise, noise)
        self._jacobians[config] = Jacobian.of(denoise.sampler, diagonal)

    def draw_noise(
        self,
        batch: int,
        sampler: SamplerConfig | Solver,
        generator: torch.Generator | None = None,
    ) -> Noise:
        """Draw the noise of a sampler, or of a solver's sampler.

        Args:
            batch: number of chunks.
            sampler: whose noise.
            generator: None for the policy's own.
        """
        config = self.complete(sampler).sampler if isinstance(sampler, Solver) else sampler
        steps = self.sampler(config).noise_steps
        shape = self.config.chunk_shape
        return generator_noise(generator or self._generator, batch, shape, steps)

    @torch.inference_mode()
    def solve(
        self,
        obs: Tensor,
        solver: Solver | None = None,
        noise: Noise | None = None,
        guess: Tensor | None = None,
        prefix: Prefix | None = None,
        execute: Execute | None = None,
    ) -> SolveResult:
        """Solve for normalised chunks, tensors in and out, without checks.

        Args:
            obs: ``(B, To, Do)`` raw observations on the policy's device; see :meth:`observe`.
            solver: how to solve; None for the policy's usual one.
            noise: all the randomness; None draws it from the policy's own generator.
            guess: ``(B, T, Da)`` normalised guess of the clean chunk.
            prefix: actions that are known already, see :meth:`known_prefix`.
            execute: how the solve is executed; None as :meth:`use` said, else eagerly.
        """
        solver = self.default_solver() if solver is None else self.complete(solver)
        noise = self.draw_noise(obs.shape[0], solver.sampler) if noise is None else noise
        given = Inputs(obs, noise.to(self.device, self.dtype), guess, prefix)
        with TURNS.shared():
            found = (execute or self.execute)(self.assemble, given, solver)
            return replace(found, chunk=self.raw_chunk(found.sample))

    def assemble(
        self, given: Inputs, solver: Solver, network: Network | None = None
    ) -> tuple[System, Iterate]:
        """Return the system that a solve is about, and where it starts.

        Args:
            given: what the solve reads.
            solver: complete, see :meth:`complete`.
            network: in place of the base network.
        """
        cond = self.condition(given.obs, given.prefix)
        denoise = self.denoiser(cond, solver.sampler, given.prefix)
        denoise = denoise if network is None else denoise.with_network(network)
        head = self.head if solver.uses_head else None
        jacobian = self._jacobians.get(solver.sampler)
        if head is not None:
            jacobian = head.jacobian(denoise.sampler)
        elif jacobian is not None:
            jacobian = jacobian.to(self.device, self.dtype)
        return start(denoise, given.noise, given.guess, head, jacobian)

    def use(self, execute: "Execute | RuntimeConfig") -> None:
        """Execute solves so from now on.

        Args:
            execute: what executes them, such as a runtime of this policy; or its config.

        Raises:
            PcmError: something else, or a runtime that this policy cannot have.
        """
        from pcm_policy.runtime.config import RuntimeConfig
        from pcm_policy.runtime.execute import Runtime

        if isinstance(execute, RuntimeConfig):
            execute = Runtime(self, execute)
        if not callable(execute):
            raise PcmError(f"policy.use({execute!r}): give a RuntimeConfig or a Runtime")
        self.execute = execute

    def predict(
        self,
        obs: ArrayLike | Mapping[str, ArrayLike],
        *,
        solver: Solver | None = None,
        noise: Noise | None = None,
        guess: Tensor | None = None,
        prefix: Prefix | None = None,
        previous: NDArray[np.float32] | None = None,
    ) -> Prediction:
        """Predict the actions to execute next.

        Args:
            obs: raw observations, oldest first, see :meth:`observe`.
            solver: how to solve; None for the policy's usual one.
            noise: all the randomness; None draws it from the policy's own generator.
            guess: ``(B, T, Da)`` normalised guess of the clean chunk.
            prefix: actions that are known already, see :meth:`known_prefix`.
            previous: ``(B, Da)`` action executed last, for the rate limit.

        Returns:
            The prediction; for observations without a batch axis ``B`` is 1.

        Raises:
            PcmError: an observation of the wrong shape, not finite, or far outside the training
                range; noise, a guess or known actions of other shapes; or an action that is not
                finite.
        """
        with TURNS.shared():
            return self._predict(obs, solver, noise, guess, prefix, previous)

    def _predict(
        self,
        obs: ArrayLike | Mapping[str, ArrayLike],
        solver: Solver | None,
        noise: Noise | None,
        guess: Tensor | None,
        prefix: Prefix | None,
        previous: NDArray[np.float32] | None,
    ) -> Prediction:
        raw = self.observe(obs)
        solver = self.default_solver() if solver is None else self.complete(solver)
        steps = solver.sampler.steps
        drawn = steps if self.sampler(solver.sampler).stochastic else 0
        check_noise(self.config, noise, len(raw), drawn)
        check_guess(self.config, guess, len(raw), steps)
        check_prefix(self.config, prefix, len(raw))
        check_previous(self.config, previous, len(raw))
        found = self.solve(raw, solver, noise, guess, prefix)
        assert found.chunk is not None
        chunk = found.chunk.cpu().numpy()
        if not np.isfinite(chunk).all():
            raise PcmError(
                "the solve gave a non-finite action; nothing was returned. Check the weights, or "
                "use solver=ddim"
            )
        first = self.config.obs_steps - 1
        action = chunk[:, first : first + self.config.action_steps]
        if self.limits is not None:
            action = self.limits.apply(action, previous)
        return Prediction(action, chunk, found)

    def observe(self, obs: ArrayLike | Mapping[str, ArrayLike]) -> Tensor:
        """Check raw observations and bring them to what :meth:`solve` takes.

        Args:
            obs: ``(To, Do)`` or ``(B, To, Do)``, or a dictionary of the entries that the policy's
                ``obs_fields`` name; of a policy with cameras the dictionary that
                :func:`pcm_policy.fields.read_observation` describes.

        Returns:
            ``(B, To, Do)`` on the policy's device, features in place of images.

        Raises:
            PcmError: a wrong shape or type, a value that is not finite or far outside the training
                range.
        """
        return observe(self.config, self.obs_normalizer, self.vision, obs)


def _check_loaded(policy: DiffusionPolicy, _: object) -> None:
    """Check what was loaded; shapes alone, on the meta device, have no values."""
    policy.certificates = None  # they were measured with other weights
    if policy.device.type != "meta":
        policy.check()
