"""SmolVLA, pi0 and pi0.5 of LeRobot (0.6.1), their action chunks solved in parallel rounds.

Their loops integrate a velocity from noise (time 1) to actions (time 0) by Euler steps and call
``model.denoise_step`` in each. Vision and language are computed once, before the loop, and come as
keys and values. Here the first call of a loop solves for the whole chunk, and every call returns
the velocity that leads there.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pcm_policy.adopt.scheduler import euler_flow
from pcm_policy.adopt.seam import Place, Seam
from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, Nodes
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.registry import Solver

RTC = (
    "real-time chunking by guidance differentiates through every step of the loop, and a parallel "
    "solve has none: switch it off (config.rtc_config.enabled=False) and give the actions to keep "
    "as `known`"
)


class VLA(Seam):
    """Parallel rounds for a SmolVLA, pi0 or pi0.5 of LeRobot.

    Args:
        policy: LeRobot's policy.
        solver: a solver, or flat settings as ``solver=...`` takes them; None for Anderson rounds.
        seed: of the noise that a Jacobian is measured with; LeRobot's own noise is not touched.

    Raises:
        PcmError: another kind of policy, or one whose loop is compiled.

    Example:
        ``with VLA(policy, {"method": "newton", "tolerance": 1e-3}) as rounds:`` and in the block
        ``policy.select_action(batch)``; then ``rounds.last.certified``.
    """

    def __init__(
        self,
        policy: Any,
        solver: Solver | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not is_vla(policy):
            raise PcmError(
                f"{type(policy).__name__} is not a SmolVLA, pi0 or pi0.5 of LeRobot 0.6.1 or later"
            )
        config = policy.config
        if getattr(config, "compile_model", False):
            raise PcmError("the policy's loop is compiled: load it with compile_model=False")
        self.steps: int = getattr(config, "num_steps", None) or config.num_inference_steps
        super().__init__(
            Place(policy.model, "denoise_step"),
            euler_flow(self.steps),
            solver,
            seed,
        )
        self.policy, self._step = policy, policy.model.denoise_step
        self._cache: Any = None
        self._sample: Tensor | None = None
        self._calls = 0

    def __exit__(self, *raised: Any) -> None:
        """Delete the attribute and forget the chunk."""
        self._forget()
        super().__exit__(*raised)

    def __call__(
        self,
        *,
        prefix_pad_masks: Tensor,
        past_key_values: Any,
        x_t: Tensor,
        timestep: Tensor,
        state: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity ``(B, T, D)`` that leads from ``x_t`` to the solved chunk.

        Raises:
            PcmError: real-time chunking is on, the loop has another number of steps than the
                config says, or the solve failed.
        """
        try:
            self._check(past_key_values, timestep)
            if past_key_values is not self._cache:  # a new prefix: a new chunk
                prefilled = Prefilled.of(prefix_pad_masks, past_key_values, state)
                sample = self._chunk(prefilled, x_t)
                self._cache, self._sample, self._calls = past_key_values, sample, 0
            elif self._calls == 1:
                self._check_steps(timestep)
            assert self._sample is not None
            # the first step lands on the straight line to the chunk, whatever the loop's steps
            velocity = x_t - self._sample if self._calls == 0 else (x_t - self._sample) * self.steps
            self._calls += 1
        except BaseException:
            self._forget()
            raise
        if self._calls == self.steps:
            self._forget()
        return velocity

    def _forget(self) -> None:
        self._cache, self._sample, self._calls = None, None, 0

    def _check(self, cache: Any, timestep: Tensor) -> None:
        """Refuse what a parallel solve would get wrong without a word."""
        if self.place.owner._rtc_enabled():  # set after loading, and at any time
            raise PcmError(RTC)
        if timestep.ndim != 1:
            raise PcmError("times for each action are not solved: give the actions as `known`")
        if not hasattr(cache, "layers"):
            raise PcmError(
                f"keys and values come as {type(cache).__name__}: use LeRobot 0.6.1 or later, with "
                "use_cache=True"
            )
        if self.known is not None and getattr(self.policy.config, "adapt_to_pi_aloha", False):
            raise PcmError("known actions with adapt_to_pi_aloha: the model has other units")

    def _check_steps(self, timestep: Tensor) -> None:
        """Compare the loop's second time with the config's number of steps."""
        step = 1.0 - float(timestep[0])
        if abs(step * self.steps - 1) > 1e-3:
            raise PcmError(
                f"the loop runs {1 / max(step, 1e-6):.0f} steps and the policy's config says "
                f"{self.steps}: set the number of steps in the config"
            )

    def _chunk(self, prefilled: "Prefilled", x: Tensor) -> Tensor:
        """Return the chunks that start from noise ``x``, ``(B, T, D)``."""
        sampler = self.sampler(x)
        initial = x.to(sampler.p.dtype)

        def network(rows: Tensor, t: Tensor, _: Tensor, **prefix: Any) -> Tensor:
            velocity: Tensor = self._step(x_t=rows.to(x.dtype), timestep=t, **prefix)
            return velocity.to(rows.dtype)

        denoise = Prefixed(
            network,
            sampler,
            initial.new_zeros(len(x), 0),
            self.sampling.prediction,
            self.sampling.clip,
            prefilled=prefilled,
        )
        return self.solve(denoise, Noise(initial)).to(x.dtype)


def is_vla(policy: Any) -> bool:
    """Whether a policy's model has the step that :class:`VLA` replaces."""
    model = getattr(policy, "model", None)
    return callable(getattr(model, "denoise_step", None)) and hasattr(model, "_rtc_enabled")


@dataclass
class Prefilled:
    """What vision and language became for a batch, as ``denoise_step`` takes it.

    Attributes:
        cache: the policy's own keys and values; never changed.
        rows: masks ``(B, L)``, the state ``(B, S)`` if there is one, then keys and values of every
            layer ``(B, H, L, D)``.
        has_state: whether the second of them is the state.
    """

    cache: Any
    rows: list[Tensor]
    has_state: bool

    def __post_init__(self) -> None:
        self._wide: list[Tensor] = []
        self._picked: tuple[Tensor, Prefilled] | None = None

    @classmethod
    def of(cls, masks: Tensor, cache: Any, state: Tensor | None) -> "Prefilled":
        """Take what the loop hands to a step."""
        layers = [part for layer in cache.layers for part in (layer.keys, layer.values)]
        given = [masks] if state is None else [masks, state]
        return cls(cache, [*given, *layers], state is not None)

    def pick(self, rows: Tensor) -> "Prefilled":
        """Return some rows of the batch; the same once more for the same tensor."""
        if self._picked is None or self._picked[0] is not rows:
            some = [part[rows] for part in self.rows]
            self._picked = rows, Prefilled(self.cache, some, self.has_state)
        return self._picked[1]

    def spread(self, count: int, most: int) -> dict[str, Any]:
        """Return keywords of ``denoise_step`` for ``count`` states of every row, rows inside.

        Args:
            count: of states in this call.
            most: of states in any call of the solve: rows are repeated so often, once.
        """
        parts = self.rows
        if count > 1:
            if not self._wide:  # no copy where there is one row
                self._wide = [p.expand(most, *p.shape).flatten(0, 1) for p in parts]
            parts = [p[: count * len(self.rows[0])] for p in self._wide]
        head = 2 if self.has_state else 1
        cache = copy(self.cache)  # SmolVLA appends to it and crops it: it gets one of its own
        cache.layers = [copy(layer) for layer in self.cache.layers]
        for i, layer in enumerate(cache.layers):
            layer.keys, layer.values = parts[head + 2 * i : head + 2 * i + 2]
        state = {"state": parts[1]} if self.has_state else {}
        return {"prefix_pad_masks": parts[0], "past_key_values": cache, **state}


@dataclass(frozen=True)
class Prefixed(Denoiser):
    """``D`` of a network whose condition is a prefix of keys and values, not a vector.

    Attributes:
        prefilled: the prefix of every row.
    """

    prefilled: Prefilled = None  # type: ignore[assignment]

    def _predict(self, x: Tensor, nodes: Nodes) -> Tensor:
        """Return the network's output at ``(n, B, T, D)`` states."""
        count, batch = x.shape[:2]
        t = self.sampler.timesteps[nodes].repeat_interleave(batch, output_size=count * batch)
        prefix = self.prefilled.spread(count, self.sampler.steps)
        network: Callable[..., Tensor] = self.network
        return network(x.flatten(0, 1), t, self.cond, **prefix).view_as(x)

    def pick(self, rows: Tensor) -> "Prefixed":
        """Return the map for some rows of the batch, ``(b,)`` int64."""
        return replace(super().pick(rows), prefilled=self.prefilled.pick(rows))  # type: ignore[call-arg, return-value]
