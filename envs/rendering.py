"""What an environment may be asked to draw."""

from pcm_policy.errors import PcmError


def checked_render_mode(render_mode: str | None) -> str | None:
    """Return a render mode that our environments have: None, or ``rgb_array``.

    Raises:
        PcmError: it is another one.
    """
    if render_mode not in (None, "rgb_array"):
        raise PcmError(f"render_mode is None or 'rgb_array', not {render_mode!r}")
    return render_mode
