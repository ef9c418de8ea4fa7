"""Full copy of the base: feature switching, two networks mixed with lambda(k) (So et al. 2025)."""

import copy

import torch
from torch import Tensor, nn

from pcm_policy.sampling.denoise import Denoiser


class CopyHead(nn.Module):
    """A second network of the base's shape, ``lambda D'(X) + (1 - lambda) D(X)``.

    A sweep is linear in the predictions, so mixing them mixes the two models' sweeps, as the paper
    does. With a share of one only the copy is called; between zero and one both are, which costs
    twice the memory and time of a round (rounds and evaluations count it once). Training starts
    from the base's weights, see :meth:`start_from`.

    Args:
        network: the base network, for its shape.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)

    def start_from(self, network: nn.Module) -> None:
        """Take over the base's weights."""
        self.network.load_state_dict(network.state_dict())

    def forward(
        self,
        denoise: Denoiser,
        forced: Tensor,
        states: Tensor,
        rounds: Tensor,
        strength: float,
        base: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean chunks of one PCM round; arguments as for the window head.

        ``forced`` and ``rounds`` are not used, ``base`` where the base's share is not zero.
        """
        nodes = slice(0, states.shape[0])
        own = denoise.with_network(self.network)(states, nodes)
        if strength == 1.0:
            return own
        if base is None:
            with torch.no_grad():
                base = denoise(states, nodes)
        return torch.lerp(base, own, strength)
