"""Full copy of the base: feature switching, two networks mixed with lambda(k) (So et al. 2025)."""

import copy

import torch
from torch import Tensor, nn

from pcm_policy.heads.base import HEADS, Head
from pcm_policy.solvers.system import Iterate, System


@HEADS.add("copy")
class CopyHead(Head):
    """A second network of the base's shape, ``lambda D'(X) + (1 - lambda) D(X)``.

    A sweep is linear in the predictions, so mixing them mixes the two models' sweeps, as the paper
    does. With a share of one only the copy is called; between zero and one both are, which costs
    twice the memory and time of a round (rounds and evaluations count it once). Training starts
    from the base's weights, see :meth:`start_from`.

    Args:
        network: the base network, for its shape.
        shape: ``N``, ``Da``, ``T`` and ``C``; not used.

    Example:
        >>> import torch
        >>> from pcm_policy.heads import build_head
        >>> from pcm_policy.networks import build_network
        >>> network = build_network("mlp", 2, 16, 40, {"width": 32, "depth": 1})  # Da, T, C
        >>> head = build_head("copy", network, 8, 2, 16, 40, {})  # for a sampler of 8 steps
        >>> len(list(head.parameters())) == len(list(network.parameters()))
        True
    """

    def __init__(self, network: nn.Module, *shape: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(True)

    def start_from(self, network: nn.Module) -> None:
        """Take over the base's weights."""
        self.network.load_state_dict(network.state_dict())

    def forward(self, s: System, x: Iterate, share: float, base: Tensor | None = None) -> Tensor:
        """Predict the clean chunks of one round; ``base`` counts where the share is below one."""
        nodes, states = slice(0, s.steps), x.X[:-1]
        own = s.denoise.with_network(self.network)(states, nodes)
        if share == 1.0:
            return own
        if base is None:
            with torch.no_grad():
                base = s.denoise(states, nodes)
        return torch.lerp(base, own, share)
