"""Model switching: the head's share lambda(k) of every round (So et al. 2025).

A head has a fixed point of its own; once its share is zero the iteration is the base model's and
converges to the base model's sample. A schedule is a tuple of shares; rounds past its end are base
rounds.
"""

from pcm_policy.errors import PcmError


def ramp(rounds: int, stiffness: float) -> tuple[float, ...]:
    """Return the paper's ``lambda(k) = clip(1 - s k / K, 0, 1)`` for ``K = rounds``.

    Raises:
        PcmError: no round, or a stiffness that is not positive.
    """
    if rounds < 1 or stiffness <= 0:
        raise PcmError(
            f"solver.rounds={rounds}, solver.stiffness={stiffness}: the ramp needs at least one "
            "round and a positive stiffness"
        )
    return tuple(min(1.0, max(0.0, 1.0 - stiffness * k / rounds)) for k in range(rounds))


def step(pcm_rounds: int) -> tuple[float, ...]:
    """Return a share of one for the first ``pcm_rounds`` rounds, and base rounds after them."""
    if pcm_rounds < 0:
        raise PcmError(f"solver.pcm_rounds={pcm_rounds}: cannot be negative")
    return (1.0,) * pcm_rounds
