"""Tests that write ONNX are skipped, with the reason, where no program can be written."""

import pytest

from pcm_policy.errors import PcmError
from pcm_policy.runtime.graphs import require_exporter


def needs_exporter() -> None:
    """Skip a test where torch is too old, or a package is missing."""
    try:
        require_exporter()
    except PcmError as error:
        pytest.skip(str(error))
