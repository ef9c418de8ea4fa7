"""Options of networks and heads: of the right type and in range, or one line that names them."""

import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.heads import HEADS
from pcm_policy.networks import NETWORKS
from pcm_policy.settings import Setting, options
from pcm_policy.training.consistency import Consistency
from tests.cli.test_cli_settings import bad_words

TRAIN = ["task=pusht", "dataset.path=unused", "output_dir=unused"]
DISTILL = ["policy=unused", *TRAIN]
PARTS = {
    **{("train", f"network={name}"): NETWORKS.find(name) for name in NETWORKS},
    **{("distill", f"head={name}"): HEADS.find(name) for name in HEADS},
    ("distill", "head=consistency"): Consistency,
}


def settings(kind: Any, section: str) -> Iterator[Setting]:
    """The options of a part, as settings."""
    hints = get_type_hints(kind.__init__, include_extras=True)
    for one in inspect.signature(kind).parameters.values():
        if one.kind is one.KEYWORD_ONLY:
            yield Setting(f"{section}.options.{one.name}", hints[one.name], one.default, "")


def ends(command: str, words: list[str]) -> str:
    with pytest.raises(PcmError) as caught:
        compose(command, words)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("command", "choice"), PARTS, ids=lambda one: one)
def test_every_option_refuses_what_it_does_not_take(command: str, choice: str) -> None:
    section = choice.partition("=")[0]
    kind: Any = PARTS[command, choice]
    for setting in settings(kind, section):
        name = setting.name.rpartition(".")[2]
        assert setting.default is not inspect.Parameter.empty, f"{name} has no default"
        assert options(kind, {name: setting.default}, "x")  # the default itself is taken
        for word in bad_words(setting):
            value: Any = {"null": None, "nan": float("nan"), "-inf": -float("inf")}.get(word, word)
            with pytest.raises(PcmError, match=rf"{section}\.options\.{name}") as caught:
                options(kind, {name: value}, f"{section}.options")
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["network.options.width=-1"], "network.options.width=-1: use a whole number"),
        ("train", ["network.options.depth=0"], "network.options.depth=0: use a whole number"),
        ("train", ["network.options.widht=8"], "did you mean network.options.width?"),
        ("train", ["network=unet1d", "network.options.down_dims=[8,-8]"], "options.down_dims"),
        ("train", ["network=transformer", "network.options.p_drop_attn=1"], "options.p_drop_attn"),
        ("distill", ["head.options.width=-1"], "head.options.width=-1: use a whole number"),
        ("distill", ["head.options.depth=0"], "head.options.depth=0: use a whole number"),
        ("distill", ["head.options.nodes=1"], "head.options.nodes=1: use a whole number from 2"),
        ("distill", ["head.options.nodes=[1.5,2]"], "head.options.nodes="),
        ("distill", ["head.options.nodse=6"], "did you mean head.options.nodes?"),
        ("distill", ["head=lora", "head.options.rank=0"], "head.options.rank=0"),
        ("distill", ["head=copy", "head.options.width=9"], "unknown setting head.options.width"),
        ("distill", ["head=consistency", "head.options.loss=l1"], "head.options.loss=l1: use"),
        ("distill", ["head=consistency", "head.options.target_ema=1"], "head.options.target_ema=1"),
        ("distill", ["head=window", "head.name=feature"], "unknown head 'feature'"),
    ],
)
def test_a_bad_option_is_one_line_before_any_work(
    command: str, words: list[str], said: str
) -> None:
    assert said in ends(command, [*(TRAIN if command == "train" else DISTILL), *words])


def test_options_that_are_not_given_are_the_class_s() -> None:
    assert compose("distill", DISTILL).head.options == options(HEADS.find("window"), {}, "x")
    found = compose("train", [*TRAIN, "network=transformer"]).network.options
    assert found == options(NETWORKS.find("transformer"), {"obs_steps": 2}, "x")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("eval", ["latency=fixed", "task=pusht"], "give latency.ms=..."),
        ("eval", ["latency=steps", "task=pusht"], "give latency.steps=..."),
        ("eval", ["latency=lognormal", "task=pusht"], "give latency.median_ms=..."),
        ("eval", ["latency=measured", "latency.factor=0"], "latency.factor=0"),
        ("data generate", ["x.zarr", "task=metaworld"], "give task.variant=..., or task=metaworld"),
        ("export", ["formats=[]"], "formats=[]: name a package"),
        ("eval", ["solve_batch=100000000", "task=pusht"], "from 1 to 65536"),
    ],
)
def test_what_a_choice_needs_is_asked_for(command: str, words: list[str], said: str) -> None:
    more = [] if command == "data generate" else ["output_dir=x"]
    assert said in ends(command, [*words, *more])
