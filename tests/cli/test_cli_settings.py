"""A fence: what no setting takes is one line that names it, before any work."""

import math
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.compose import composed, overrides_of
from pcm_policy.cli.main import run_command
from pcm_policy.cli.settings.solver import known, read_solver
from pcm_policy.errors import PcmError
from pcm_policy.settings import Range, Setting, options_of, read, walk

NEEDED = {
    "output_dir": "output_dir=unused",
    "dataset.path": "dataset.path=unused",
    "path": "path=unused",
    "target": "target=unused",
    "source": "source=unused",
    "first": "first=unused",
    "second": "second=unused",
}
MORE = {
    "data generate": ["path=unused"],
    "train": ["task=pusht"],
    "distill": ["policy=unused", "task=pusht"],
    "bench tune": ["error=0.1"],
}
ANY_NUMBER = {"control.low", "control.high", "control.hold", "task.hold"}
"""Settings in the unit of the actions, which may be any."""


def needed(name: str) -> list[str]:
    """The words that a command cannot do without."""
    kind = COMMANDS[name].kind
    names = {setting.name for setting in walk(kind) if setting.default == "???"}
    return [NEEDED[one] for one in NEEDED if one in names] + MORE.get(name, [])


def parts(kind: Any) -> list[Any]:
    """The alternatives of an annotation."""
    if get_origin(kind) in (Union, UnionType):
        return [part for one in get_args(kind) for part in parts(one)]
    return [kind]


def limits(kind: Any) -> tuple[Any, list[Range]]:
    if get_origin(kind) is Annotated:
        inner, *extras = get_args(kind)
        return inner, [extra for extra in extras if isinstance(extra, Range)]
    return kind, []


def beyond(setting: Setting, inner: Any, ranges: list[Range]) -> Iterator[str]:
    """Numbers that a setting does not take."""
    yield "nan"
    if setting.name not in ANY_NUMBER and not any(one.infinite for one in ranges):
        yield from ("-1000000", "-inf")
    if inner is int:
        yield from ("0.5", "1e40")
    for one in ranges:
        yield from (str(one.least - 1),) if one.least > -math.inf and inner is int else ()
        yield from (str(one.most + 1),) if one.most < math.inf else ()
        yield from (str(one.above),) if one.above > -math.inf else ()
        yield from (str(one.below),) if one.below < math.inf else ()


def bad_words(setting: Setting) -> Iterator[str]:
    """Values that a setting does not take, as typed."""
    kinds = [limits(one) for one in parts(setting.kind)]
    takes = [inner for inner, _ in kinds]
    origins = [get_origin(inner) or inner for inner in takes]
    if type(None) not in takes and Any not in takes and not options_of(setting.kind):
        yield "null"
    if str in takes or Any in takes:
        return
    yield "maybe_many"
    lists = [
        limits(parts(get_args(one)[0])[0]) for one in takes if get_origin(one) in (tuple, list)
    ]
    refused = [set(beyond(setting, *one)) for one in lists if one[0] in (int, float)]
    if bool in takes:
        yield from ("7", "nan", "[true]")
    for inner, ranges in kinds:
        if inner in (int, float):
            yield from beyond(setting, inner, ranges)
        elif get_origin(inner) in (tuple, list):
            of, own = limits(parts(get_args(inner)[0])[0])
            if of in (int, float):
                every = set(beyond(setting, of, own)).intersection(*refused)
                yield from (f"[{one}]" for one in ("many", *sorted(every)))
            if not {int, float} & set(takes):
                yield "5"
        elif get_origin(inner) is Literal and tuple not in origins:
            yield "[a,b]"


def put(values: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    first, _, rest = name.partition(".")
    inner = put(values.get(first) or {}, rest, value) if rest else value
    return {**values, first: inner}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_setting_refuses_what_it_does_not_take(name: str) -> None:
    """By the path of a word to its check, less the composing, which does not look at values."""
    kind, parser = COMMANDS[name].kind, OverridesParser.create()
    start: Any = OmegaConf.to_container(composed(name, needed(name)), resolve=True)
    read(kind, start)  # what is put in below is all that is wrong
    taken, count = [], 0
    for setting in walk(kind):
        for word in bad_words(setting):
            (typed,) = overrides_of(name, [f"{setting.name}={word}"])
            value = parser.parse_override(typed).value()
            value = getattr(value, "text", value)  # of a quoted text
            count += 1
            try:
                read(kind, put(start, setting.name, value))
            except PcmError as error:
                line, last = str(error), setting.name.rpartition(".")[2]
                assert last in line, f"{setting.name}={word}: {line}"
                assert "\n" not in line
            else:
                taken.append(f"{setting.name}={word}")
    assert not taken
    assert count > 0


def sample(name: str) -> list[str]:
    """For every kind of value one setting of a command, and a word that it does not take."""
    found = {}
    for setting in walk(COMMANDS[name].kind):
        for word in list(bad_words(setting))[:3]:
            found.setdefault((str(setting.kind), word), f"{setting.name}={word}")
    return list(found.values())[::4][:6]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_bad_word_ends_a_command_before_any_work(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for word in sample(name):
        with pytest.raises(SystemExit) as caught:
            run_command(name, pytest.fail, [*needed(name), word])
        assert caught.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, word
        assert lines[0].startswith(f"pcm-{name}: error: ")
        assert word.partition("=")[0].rpartition(".")[2] in lines[0], lines[0]


def test_a_setting_of_several_steps_takes_what_any_of_them_takes() -> None:
    """``shares`` are the head's with pcm, from 0 on, and of the nodes with coarse, above 0."""
    text = known()["shares"][1]
    assert "coarse: of the nodes" in text
    assert "pcm: ``lambda(k)``" in text
    assert read_solver({"shares": [1, 0]}, "solver") == {"shares": (1.0, 0.0)}
    assert read_solver({"method": "pcm", "shares": [1, 0]}, "solver")["shares"] == (1.0, 0.0)
    for given in ({"shares": [1, 2]}, {"method": "coarse", "shares": [1, 0]}):
        with pytest.raises(PcmError, match="shares"):
            read_solver(given, "solver")
