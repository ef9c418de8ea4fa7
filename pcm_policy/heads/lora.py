"""LoRA head: weight switching, ``W + lambda(k) dW`` with a low-rank ``dW`` (So et al. 2025)."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pcm_policy.errors import PcmError
from pcm_policy.heads.base import HEADS, Head
from pcm_policy.sampling.denoise import Network
from pcm_policy.settings import Positive, Width
from pcm_policy.solvers.system import Iterate, System


@HEADS.add("lora")
class LoraHead(Head):
    """Low-rank changes to every matrix and convolution of the base network.

    One network call a round, whatever the share. ``up`` starts at zero, so an untrained head
    changes nothing. The paper leaves rank and targets open; here every weight of two or more
    dimensions is a target (Hu et al. 2022 for the parametrisation).

    Args:
        network: the base network, for its weights' names and shapes; it is not kept.
        shape: ``N``, ``Da``, ``T`` and ``C``; not used.
        rank: rank of every ``dW``.
        alpha: ``dW = alpha / rank * up @ down``.

    Example:
        >>> import torch
        >>> from pcm_policy.heads import build_head
        >>> from pcm_policy.networks import build_network
        >>> network = build_network("mlp", 2, 16, 40, {"width": 32, "depth": 1})  # Da, T, C
        >>> head = build_head("lora", network, 8, 2, 16, 40, {"rank": 2})  # for 8 steps
        >>> size, base = (sum(w.numel() for w in m.parameters()) for m in (head, network))
        >>> size < base
        True
    """

    changes_base: ClassVar[bool] = True

    def __init__(
        self, network: nn.Module, *shape: int, rank: Width = 8, alpha: Positive = 8.0
    ) -> None:
        super().__init__()
        if rank < 1:
            raise PcmError(f"head.options.rank={rank}: must be at least 1")
        self.scale = alpha / rank
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in network.named_parameters():
            if weight.ndim < 2:
                continue
            key = name.replace(".", "/")  # parameter dictionaries refuse dots
            inner = weight[0].numel()
            self.down[key] = nn.Parameter(torch.randn(rank, inner) / math.sqrt(inner))
            self.up[key] = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self._merged: dict[float, dict[str, Tensor]] = {}

    def train(self, mode: bool = True) -> "LoraHead":
        """Switch mode; weights merged for inference are forgotten."""
        self._merged.clear()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LoraHead":
        self._merged.clear()  # they lie on another device or have another type now
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        self._merged.clear()
        super()._load_from_state_dict(*args)

    def merged(self, network: nn.Module, share: float) -> dict[str, Tensor]:
        """Return the network's weights at share ``share``, remembered outside training."""
        if self.training:
            return self._merge(network, share)
        if share not in self._merged:
            with torch.inference_mode(False), torch.no_grad():
                self._merged[share] = self._merge(network, share)
        return self._merged[share]

    def _merge(self, network: nn.Module, share: float) -> dict[str, Tensor]:
        weights = dict(network.named_parameters())
        result = {}
        for key, down in self.down.items():
            name = key.replace("/", ".")
            delta = (self.up[key] @ down).view_as(weights[name])
            result[name] = weights[name].detach() + share * self.scale * delta
        return result

    def forward(self, s: System, x: Iterate, share: float, base: Tensor | None = None) -> Tensor:
        """Predict the clean chunks of one round; ``base`` is not used."""
        network = s.denoise.network
        assert isinstance(network, nn.Module)
        weights = self.merged(network, share)
        switched: Network = lambda *inputs: functional_call(network, weights, inputs)  # noqa: E731
        return s.denoise.with_network(switched)(x.X[:-1], slice(0, s.steps))
