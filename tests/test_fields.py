"""Entries of an observation, side by side."""

import numpy as np
import pytest

from pcm_policy.errors import PcmError
from pcm_policy.fields import join_fields
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.observe import select
from pcm_policy.policy.policy import DiffusionPolicy

OBS = {"a": np.arange(12.0).reshape(2, 2, 3), "b": -np.ones((2, 2, 1)), "rest": np.zeros(1)}


def test_columns_stand_in_the_order_of_the_fields() -> None:
    found = join_fields(OBS, ["b", "a[1:3]"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1, 0], [-1, 7, 8])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "does not say which entries"),
        (["c"], "lacks c: it has a, b, rest"),
        (["a[2:4]"], "a has 3 columns"),
        (["a", "rest"], "different leading axes"),
    ],
)
def test_bad_fields_are_refused(fields: list[str], message: str) -> None:
    with pytest.raises(PcmError, match=message):
        join_fields(OBS, fields)


def test_policies_take_dictionaries_of_their_fields() -> None:
    config = PolicyConfig(3, 2, obs_fields=("b", "a[0:2]"), network_options={"width": 8})
    policy = DiffusionPolicy(config)
    small = {name: values / 20 for name, values in OBS.items()}  # far from training is refused
    joined = select(config, small)
    assert isinstance(joined, np.ndarray)
    np.testing.assert_array_equal(policy.observe(small).numpy(), joined)
