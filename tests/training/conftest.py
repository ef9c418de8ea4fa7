"""What the tests of training share."""

from collections.abc import Iterator

import pytest

from tests.conftest import brief_cards


@pytest.fixture(scope="module", autouse=True)
def _brief_cards() -> Iterator[None]:
    """Cards of few observations, those of a module's own fixtures too."""
    with pytest.MonkeyPatch.context() as patch:
        brief_cards(patch)
        yield
