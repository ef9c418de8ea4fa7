"""The README's Python example, run as printed."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def test_python_example() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    scope: dict[str, object] = {}
    exec(code.group(1), scope)
    action = scope["action"]
    assert isinstance(action, np.ndarray)
    assert action.shape == (1, 10, 2)
    assert np.isfinite(action).all()
    assert action.min() > -50
    assert action.max() < 562


def test_layout_links() -> None:
    for name in ("envs", "datasets", "configs"):
        link = ROOT / "pcm_policy" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
    assert not (ROOT / "datasets" / "__init__.py").exists()
