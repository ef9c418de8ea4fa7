"""Fixtures of the controller's tests, and a policy for odd worlds."""

from pathlib import Path

import pytest
import torch

from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.normalize import Normalizer
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from tests.control.parts import planner, policy, spec  # noqa: F401
from tests.seeing import quick  # noqa: F401


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = DiffusionPolicy(
        PolicyConfig(
            1,
            1,
            8,
            2,
            2,
            network_options={"width": 8, "depth": 1},
            sampler=SamplerConfig("ddim", 2),
        )
    )
    made.obs_normalizer = Normalizer.fit(torch.tensor([[-300.0], [300.0]]))
    made.action_normalizer = Normalizer.fit(torch.tensor([[-10.0], [10.0]]))
    path = tmp_path_factory.mktemp("policy") / "policy"
    made.eval().save_pretrained(path)
    return path
