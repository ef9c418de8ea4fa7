"""Window head: a small network that sees the whole trajectory and corrects base predictions."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, cat, nn

from pcm_policy.errors import PcmError
from pcm_policy.heads.base import HEADS
from pcm_policy.heads.few_nodes import FewNodes, placed, scale_of
from pcm_policy.heads.guess import FirstGuess
from pcm_policy.networks.mlp import AdaLNBlock, decode_blocks, encode_blocks
from pcm_policy.sampling.denoise import Denoiser, at_nodes
from pcm_policy.sampling.samplers import AffineSampler
from pcm_policy.settings import Count, Depth, Natural, Range, Width
from pcm_policy.solvers.coarse import between_nodes
from pcm_policy.solvers.system import System, combine

Auto = Literal["auto"]
Seen = Annotated[int, Range(least=2, most=4096)]
Nodes = tuple[Natural, ...]


@HEADS.add("window")
class WindowHead(FewNodes):
    """Correct all base predictions of a round: ``P + lambda(k) s A(X, P, obs, k, s) R / s``.

    ===== =======================================================================================
    ``P`` the base's predictions ``D(X)``, or a quasi-Newton step from them
    ``R`` the residual ``F + M P - X``: how far ``P`` moves the states
    ``s`` the root mean square of ``R`` in a row of the batch
    ``A`` a matrix of rank ``width``; a network of states, predictions and observation factors it
    ===== =======================================================================================

    The error of ``P`` is nearly linear in ``R``, by a matrix that depends on the states. A row near
    its fixed point therefore gets a small correction, and a row far from it a large one. A round
    calls the base network once. With a share of zero it is a round of the base model. The output
    layer starts at zero, so an untrained head changes nothing.

    Args:
        network: the base network, not used.
        steps: ``N``, number of states of the sampler it is trained for.
        action_dim: ``Da``.
        horizon: ``T``.
        cond_dim: ``C``.
        width: hidden width, and dimensions of the map ``A``; see :meth:`settled` for ``auto``.
        depth: number of residual blocks.
        cond_width: width of the vector that modulates the blocks, of both networks.
        max_rounds: later rounds share the last round's embedding.
        nodes: number of states that the base is evaluated at and the head sees; the head
            interpolates the predictions in between in log-SNR. 2 or more, evenly spread; None, or
            a number from ``N`` up, means all. A list names them, ``[24, 30]`` of 32 for instance:
            where the first guess is good, states of little noise tell most.
        newton: start from the base's quasi-Newton step, see :mod:`pcm_policy.solvers.newton`. The
            head stores the Jacobian and the interpolation weights, see :meth:`calibrate`.
        guess_width: width of the network that predicts the chunk a solve starts from, see
            :class:`~pcm_policy.heads.guess.FirstGuess`; 0 starts from zeros.
        guess_noises: number of noise states that this network sees: 1, or the number of nodes.
        guess_nodes: states at which it says what the base predicts there, ascending, in place of
            the chunk alone; in between it is interpolated in log-SNR. Far from the end the base
            predicts another chunk than the sampler's. A first round that begins with the whole
            path sees states where the sampler goes.

    Example:
        >>> import torch
        >>> from pcm_policy.heads import build_head
        >>> from pcm_policy.networks import build_network
        >>> network = build_network("mlp", 2, 16, 40, {"width": 32, "depth": 1})  # Da, T, C
        >>> options = {"nodes": 4, "width": 16, "cond_width": 16, "guess_width": 0}
        >>> head = build_head("window", network, 8, 2, 16, 40, options)  # for a sampler of 8 steps
        >>> size, base = (sum(w.numel() for w in m.parameters()) for m in (head, network))
        >>> size < base
        True
    """

    def __init__(
        self,
        network: nn.Module,
        steps: int,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        width: Width | Auto = "auto",
        depth: Depth = 2,
        cond_width: Width = 64,
        max_rounds: Depth = 4,
        nodes: Seen | Nodes | Auto | None = "auto",
        newton: bool = True,
        guess_width: Annotated[int, Range(least=0, most=65_536)] | Auto = "auto",
        guess_noises: Count | Auto = "auto",
        guess_nodes: Nodes | None = None,
    ) -> None:
        given = {"width": width, "nodes": nodes, "guess_width": guess_width}
        given["guess_noises"] = guess_noises
        sizes = self.settled(given, steps, horizon * action_dim, stochastic=False)
        seen, wide, guess_wide = (sizes[name] for name in ("nodes", "width", "guess_width"))
        super().__init__(steps, (horizon, action_dim), seen, newton)
        self.guess_noises = _noises(sizes["guess_noises"], self.evaluations)
        window = self.evaluations * horizon * action_dim
        self.max_rounds = max_rounds
        self.guess: FirstGuess | None = None
        self._between: tuple[AffineSampler, Tensor] | None = None
        if guess_nodes is not None:
            self.guess_nodes = placed(guess_nodes, steps, "guess_nodes")
            if not guess_wide:
                raise PcmError(f"head.options.guess_nodes={list(guess_nodes)}: guess_width is 0")
        if guess_wide:
            shape = self.guess_noises, action_dim, horizon, cond_dim
            chunks = 1 if guess_nodes is None else len(guess_nodes)
            self.guess = FirstGuess(*shape, width=guess_wide, cond_width=cond_width, chunks=chunks)
        self.cond = nn.Sequential(nn.Linear(cond_dim, cond_width), nn.SiLU())
        self.round = nn.Embedding(max_rounds, cond_width)
        self.level = nn.Linear(1, cond_width)
        self.inp = nn.Linear(2 * window, wide)
        self.blocks = nn.ModuleList(AdaLNBlock(wide, cond_width, 2) for _ in range(depth))
        self.factors = nn.Linear(wide, wide)
        self.residual = nn.Linear(window, wide)
        self.out = nn.Linear(wide, window)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @classmethod
    def settled(
        cls, options: Mapping[str, Any], steps: int, chunk: int, stochastic: bool
    ) -> dict[str, Any]:
        """Return the options with a number for each that says ``auto``.

        ``nodes`` is a quarter of the sampler's steps and at least 6; ``width`` twice the numbers in
        a chunk, within 96 and 256, and ``guess_width`` the same and at least 128; ``guess_noises``
        is as many as there are nodes where noise is drawn in every step, else 1. The arguments are
        those of :meth:`Head.settled <pcm_policy.heads.base.Head.settled>`.
        """
        width = min(256, max(96, 2 * chunk))
        auto = {"width": width, "nodes": max(6, steps // 4), "guess_width": max(128, width)}
        found = {k: auto.get(k, v) if v == "auto" else v for k, v in options.items()}
        if found.get("guess_noises") == "auto":
            nodes = found.get("nodes") or steps
            count = nodes if isinstance(nodes, int) else len(nodes)
            found["guess_noises"] = count if stochastic else 1
        return found

    @property
    def starts(self) -> bool:
        """Whether the head predicts the chunk that a solve starts from."""
        return self.guess is not None

    def start(self, s: System) -> Tensor | None:
        """Predict what to start from, from noise and observation alone.

        Returns:
            The chunk ``(B, T, Da)``, or with ``guess_nodes`` predictions at all nodes,
            ``(N, B, T, Da)``.
        """
        found = self.guesses(s)
        if found is None:
            return None
        return found[0] if self.guess_nodes is None else combine(self._path(s), found)

    def guesses(self, s: System) -> Tensor | None:
        """Return what the first guess says, ``(k, B, T, Da)``: the chunk, or at ``guess_nodes``."""
        given = s.denoise.cond, s.denoise.prefix
        return None if self.guess is None else self.guess(self._noise(s), *given)

    def _noise(self, s: System) -> Tensor:
        """Return what the noise alone gives at the states that the first guess sees."""
        nodes = self.nodes(s.denoise.sampler)[0] if self.guess_noises > 1 else slice(0, 1)
        return at_nodes(s.F[:-1], nodes)

    def _path(self, s: System) -> Tensor:
        """Return ``(N, k)`` weights that spread the guesses over all nodes; made once."""
        sampler = s.denoise.sampler
        if self._between is None or self._between[0] is not sampler:
            with torch.inference_mode(False), torch.no_grad():
                index = torch.tensor(self.guess_nodes, device=sampler.alpha.device)
                self._between = sampler, between_nodes(sampler, index, 0)
        return self._between[1]

    def _correct(
        self, denoise: Denoiser, states: Tensor, base: Tensor, residual: Tensor, rounds: Tensor
    ) -> Tensor:
        """Return ``(n, B, T, Da)`` from states, predictions and residual at the nodes."""
        scale = scale_of(residual)
        level = self.level(scale[0, :, 0].log())
        c = self.cond(denoise.cond) + self.round(rounds.clamp(max=self.max_rounds - 1)) + level
        h = self.inp(cat([states, base]).transpose(0, 1).flatten(1))
        h = decode_blocks(self.blocks, h, encode_blocks(self.blocks, c))
        moved = self.residual((residual / scale).transpose(0, 1).flatten(1))
        found: Tensor = self.out(self.factors(h) * moved)
        return scale * found.view(states.transpose(0, 1).shape).transpose(0, 1)


def _noises(given: int, nodes: int) -> int:
    found = min(given, nodes)
    if found not in (1, nodes):
        raise PcmError(f"head.options.guess_noises={given}: use 1 or {nodes}, as nodes")
    return found
