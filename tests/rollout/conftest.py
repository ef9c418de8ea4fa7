"""Fixtures of the controller's tests."""

from tests.control.parts import planner, policy, spec  # noqa: F401
from tests.seeing import quick  # noqa: F401
