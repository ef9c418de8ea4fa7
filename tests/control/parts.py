"""The released policy, and a tiny spec whose plans can be written by hand."""

import numpy as np
import pytest
import torch

from pcm_policy.control import Plan, PlanRequest, PolicySpec
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.serving.planner import Planner

ENV = "pcm_policy/PushTKeypoints-v0"


@pytest.fixture(scope="session")
def policy() -> DiffusionPolicy:
    torch.set_num_threads(1)
    return DiffusionPolicy.from_pretrained("released/pusht_mlp")


@pytest.fixture(scope="session")
def planner(policy: DiffusionPolicy) -> Planner:
    return Planner(policy)


@pytest.fixture
def spec() -> PolicySpec:
    """To = 2, Ta = 4, T = 10: nine usable steps."""
    return PolicySpec(1, 1, 10, 2, 4, 10.0, (0.0,), (100.0,), (-1000.0,), (1000.0,))


def counting(request: PlanRequest, offset: float = 0.0) -> Plan:
    """Plan the time itself: the action for tick t is t + offset."""
    actions = np.arange(9, dtype=np.float32)[:, None] + request.tick + offset
    return Plan(request.id, actions, memory=request.tick)
