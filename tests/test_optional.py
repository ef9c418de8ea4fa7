"""Packages that are not installed: the line that installs them."""

import sys

import pytest

from pcm_policy.errors import PcmError
from pcm_policy.optional import require


def test_a_package_that_is_there() -> None:
    assert require("json", "a test", "test") is sys.modules["json"]
    assert require("os.path", "a test", "test") is sys.modules["os.path"]


@pytest.mark.parametrize("module", ["nobody_has_this", "nobody_has_this.part", "json.nothing"])
def test_a_package_that_is_not_there(module: str) -> None:
    package = module.partition(".")[0]
    with pytest.raises(PcmError, match=rf"^a test needs {package}: pip install 'pcm_policy\[x\]'$"):
        require(module, "a test", "x")
