"""The interface of a PCM head, which jumps from any iterate towards the base's fixed point."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pcm_policy.registry import Registry
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.sampling.denoise import Denoiser, Nodes
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.system import Iterate, System, combine


class Head(nn.Module, ABC):
    """A PCM head. A head of your own implements :meth:`forward`; the other methods have defaults.

    The policy builds it as ``Head(network, steps, action_dim, horizon, cond_dim, **options)``:

    ============== =====================================================================
    ``network``    the base network; a head must not keep it as a submodule
    ``steps``      ``N``, steps of the sampler that the head is trained for
    ``action_dim`` ``Da``
    ``horizon``    ``T``
    ``cond_dim``   ``C``
    ``options``    the settings ``head.options``
    ============== =====================================================================

    Example:
        >>> class Nothing(Head):  # the base alone; docs/extend.md has one that is trained
        ...     def __init__(self, network, steps, action_dim, horizon, cond_dim):
        ...         super().__init__()
        ...
        ...     def forward(self, s, x, share, base=None):
        ...         return s.denoise(x.X[:-1], slice(0, s.steps)) if base is None else base
        >>> Nothing(None, 16, 2, 16, 40).starts
        False
    """

    adds_to_base: ClassVar[bool] = False
    """Whether the head adds to a base prediction that the caller may give, as
    :class:`~pcm_policy.solvers.Adaptive` does."""
    changes_base: ClassVar[bool] = False
    """Whether the head calls the base network with other weights; these have the head's type."""
    guess_nodes: tuple[int, ...] | None = None
    """Nodes at which the first guess says what the base predicts; None where it says the chunk."""

    def nodes(self, sampler: AffineSampler) -> tuple[Nodes, Tensor | None]:
        """Return what the base is evaluated at in a round.

        Returns:
            The nodes, by default all; and ``(N, n)`` weights that spread values at them over all
            nodes, None where they are all.
        """
        return slice(0, sampler.steps), None

    def jacobian(self, sampler: AffineSampler) -> Jacobian | None:
        """Return the base's mean Jacobian on a sampler, if the head keeps it."""
        return None

    @classmethod
    def settled(
        cls, options: Mapping[str, Any], steps: int, chunk: int, stochastic: bool
    ) -> dict[str, Any]:
        """Return the options with a number for each that says ``auto``; by default as they are.

        Args:
            options: of the head, any that are left out have their defaults.
            steps: ``N`` of the sampler that the head is trained for.
            chunk: numbers in a chunk, ``T Da``.
            stochastic: whether that sampler draws noise in every step.
        """
        return dict(options)

    @property
    def starts(self) -> bool:
        """Whether the head predicts the chunk that a solve starts from."""
        return False

    def start(self, s: System) -> Tensor | None:
        """Predict what a solve starts from, without a round of the base.

        The caller clips it.

        Returns:
            The chunk ``(B, T, Da)``, or predictions at all nodes ``(N, B, T, Da)``; None means that
            the solve starts from zeros.
        """
        return None

    def guesses(self, s: System) -> Tensor | None:
        """Return what the first guess itself says and is trained on, ``(k, B, T, Da)``.

        None means that there is none. It is the chunk alone, ``k = 1``, or what the base predicts
        at ``k`` nodes, :attr:`guess_nodes`.
        """
        return None

    @abstractmethod
    def forward(self, s: System, x: Iterate, share: float, base: Tensor | None = None) -> Tensor:
        """Predict the clean chunks of one PCM round.

        Args:
            s: the system. The base's weights, ``s.denoise.network``, get no gradient.
            x: the iterate; ``x.round_of_rows()`` says which round every row is in.
            share: lambda(k), the head's share of the round.
            base: ``D(X)`` where it is known already, at all nodes or at the head's.

        Returns:
            ``(N, B, T, Da)`` predictions at all nodes.
        """

    def base_predictions(self, s: System, x: Iterate, base: Tensor) -> Tensor:
        """Return the predictions of the same round without the head, ``(N, B, T, Da)``.

        Args:
            s: the system.
            x: the iterate.
            base: ``D(X)`` at all nodes or at the head's.
        """
        between, states = self.nodes(s.denoise.sampler)[1], x.X[:-1]
        if between is not None and base.shape[0] != states.shape[0]:
            base = combine(between, base)
        jacobian = self.jacobian(s.denoise.sampler)
        return base if jacobian is None else jacobian.predict(base, s.F[:-1], states)

    def start_from(self, network: nn.Module) -> None:
        """Take over what training starts from of the base's weights; nothing by default."""

    @torch.no_grad()
    def calibrate(self, denoise: Denoiser, noise: Noise) -> None:
        """Measure on some observations what the head keeps of the base; nothing by default."""


HEADS: Registry[type[Head]] = Registry("head", Head)
