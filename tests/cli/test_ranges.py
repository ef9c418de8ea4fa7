"""Settings objects check themselves, for who builds them in Python: in the schema's ranges."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.help import command_help
from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.serving.options import ObserveOptions, ServeOptions
from pcm_policy.settings import Range, Setting, walk
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.dataset import DatasetConfig
from tests.cli.test_cli_settings import ANY_NUMBER, limits, parts

CLASSES: dict[type, dict[str, Any]] = {
    ControlSettings: {},
    ObserveOptions: {},
    ServeOptions: {},
    TrainConfig: {},
    DatasetConfig: {"path": "unused"},
}
WIDER = {"seed", "val_seed"}
"""A seed may be larger in Python than other libraries take, which a command seeds as well."""


def ranges(setting: Setting) -> Iterator[tuple[type, Range]]:
    for one in parts(setting.kind):
        inner, found = limits(one)
        yield from ((inner, limit) for limit in found if inner in (int, float))


CASES = [
    pytest.param(kind, setting.name, inner, limit, id=f"{kind.__name__}-{setting.name}")
    for kind in CLASSES
    for setting in walk(kind)
    for inner, limit in ranges(setting)
    if not limit.infinite and "." not in setting.name  # a section checks itself
]


@pytest.mark.parametrize(("kind", "name", "inner", "limit"), CASES)
def test_the_schema_and_the_class_agree(kind: type, name: str, inner: type, limit: Range) -> None:
    def taken(value: float) -> bool:
        try:
            kind(**CLASSES[kind] | {name: value})
        except PcmError as error:
            return name not in str(error)
        return True

    for end, beyond in ((limit.least, -1), (limit.most, 1)):
        if math.isfinite(end):
            assert taken(inner(end)), end
            assert name in WIDER or not taken(inner(end + beyond)), end
    for end in (limit.above, limit.below):
        assert math.isinf(end) or not taken(end)
    assert not taken(math.nan)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_number_of_a_command_has_a_range(name: str) -> None:
    """Any number at all is what few settings take: those in the unit of the actions."""
    for setting in walk(COMMANDS[name].kind):
        plain = [one for one in parts(setting.kind) if one in (int, float)]
        assert not plain or setting.name in ANY_NUMBER, setting.name


def test_help_shows_the_ranges() -> None:
    shown = " ".join(command_help(COMMANDS["serve"]).split())
    assert "(a whole number from 0 to 65535)" in shown
    assert "a list of plain, prefix, prefix_input, warm, warm_prefix or warm_prefix_input" in shown
    shown = " ".join(command_help(COMMANDS["eval"]).split())
    assert "speed of slow, in (0, 1) (a number above 0 below 1)" in shown
    assert "(a whole number from 1 to 10000 or null)" in shown
