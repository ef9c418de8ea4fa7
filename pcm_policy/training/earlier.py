"""A head that goes on from an earlier one of the same base."""

from pcm_policy.errors import PcmError
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy


def go_on(policy: DiffusionPolicy, earlier: DiffusionPolicy, name: str) -> str:
    """Give an untrained head those parts of an earlier one whose weights all have the same shapes.

    A head of other nodes or another width keeps the first guess of the earlier one, for example.

    Args:
        policy: with the untrained head, which is changed.
        earlier: with the head that it goes on from.
        name: of ``earlier``, for messages.

    Returns:
        A sentence that says which parts are taken, and which are new.

    Raises:
        PcmError: there is no earlier head, it is of another base, or nothing fits.
    """
    if earlier.head is None or policy.head is None:
        raise PcmError(f"init={name}: that policy has no PCM head to go on from")
    if fingerprint(earlier.network) != fingerprint(policy.network):
        raise PcmError(f"init={name}: its head belongs to another base than policy=...")
    mine, theirs = policy.head.state_dict(), earlier.head.state_dict()
    parts = {key.split(".")[0] for key, _ in policy.head.named_parameters()}
    whole = {
        part: all(
            key in theirs and theirs[key].shape == value.shape
            for key, value in mine.items()
            if key.split(".")[0] == part
        )
        for part in parts
    }
    taken, new = (sorted(part for part in parts if whole[part] is fits) for fits in (True, False))
    if not taken:
        raise PcmError(f"init={name}: no part of its head has the shapes of one here")
    fits = {key: value for key, value in theirs.items() if key.split(".")[0] in taken}
    policy.head.load_state_dict(mine | fits)
    left = f"; new: {', '.join(new)}" if new else ""
    return f"the head goes on from that of {name}: {', '.join(taken)}{left}"
