"""What a policy folder may hold that is no policy: refused by one place, whoever loads it."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.errors import PcmError
from pcm_policy.policy.folder import save_policy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from tests.bad_values import not_a_flag, not_a_number, not_natural, not_positive, not_whole
from tests.policy.test_checkpoint import make

OBS = np.zeros((2, 2, 3), np.float32)
HEADED = make("window").config.to_dict()
same = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(make("window"), tmp_path / "policy", observations=torch.rand(5, 2, 3))
    return tmp_path / "policy"


def good() -> dict[str, Any]:
    return PolicyConfig(3, 2).to_dict()


def texts_without(allowed: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    return st.sampled_from([1, True, ["a"], {"a": 1}, 1.5, "x" * 2000]).filter(
        lambda value: value not in allowed
    )


bad_config = st.one_of(
    st.tuples(
        st.sampled_from(["obs_dim", "action_dim", "horizon", "obs_steps", "action_steps"]),
        not_natural() | st.integers(min_value=10**7),
    ),
    st.tuples(st.just("prefix_steps"), not_whole | st.integers(max_value=-1)),
    st.tuples(st.just("control_hz"), not_positive()),
    st.tuples(st.just("clip"), not_positive().filter(lambda value: value is not None)),
    st.tuples(st.just("max_excess"), not_a_number | st.floats(max_value=-1e-9)),
    st.tuples(st.just("inpainting"), not_a_flag),
    st.tuples(st.sampled_from(["network", "task", "action_field"]), texts_without(())),
    st.tuples(st.just("obs_fields"), st.sampled_from(["state", 1, [1], None, [["a"]]])),
    st.tuples(st.just("prediction"), st.sampled_from(["noise", 1, None, []])),
    st.tuples(
        st.just("network_options"),
        st.sampled_from([1, "a", [1], {"width": np.nan}, {"depth": 10**12}, {"a": [[1]]}]),
    ),
)


@same
@given(bad_config)
def test_no_bad_value_in_a_config(case: tuple[str, Any]) -> None:
    name, value = case
    with pytest.raises(PcmError, match=name):
        PolicyConfig.from_dict(good() | {name: value})


bad_part = st.one_of(
    st.tuples(st.just(("schedule", "train_steps")), not_natural() | st.integers(min_value=10**6)),
    st.tuples(st.just(("sampler", "steps")), not_natural() | st.integers(min_value=101)),
    st.tuples(st.just(("head", "rounds")), not_natural()),
    st.tuples(st.just(("head", "options")), st.sampled_from([None, 1, {"width": np.inf}])),
)


@same
@given(bad_part)
def test_no_bad_value_in_its_parts(case: tuple[tuple[str, str], Any]) -> None:
    (part, name), value = case
    data = copy.deepcopy(HEADED)
    data[part][name] = value
    with pytest.raises(PcmError, match=f"{part}|{name}|steps"):
        PolicyConfig.from_dict(data)


@pytest.mark.parametrize("key", ["obs_dim", "schedule", "sampler"])
def test_what_is_missing_is_named(key: str) -> None:
    data = good()
    del data[key]
    with pytest.raises(PcmError, match=key):
        PolicyConfig.from_dict(data)
    with pytest.raises(PcmError, match="obs_dims"):
        PolicyConfig.from_dict(good() | {"obs_dims": 5})
    for part in ("schedule", "sampler"):
        for value in (5, None, {"depth": 1}, []):
            with pytest.raises(PcmError, match=part):
                PolicyConfig.from_dict(good() | {part: value})


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "", "\x00", "nan", "[]", '{"format_version": 1}']
)
def test_texts_that_are_no_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(PcmError, match=r"config.json is not a policy config"):
        DiffusionPolicy.from_pretrained(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10**6},
        {"depth": 10**9},
        {"width": 0},
        {"width": -3},
        {"depth": "two"},
        {"expansion": 0.5},
    ],
)
def test_no_more_is_built_than_the_file_holds(folder: Path, options: dict[str, Any]) -> None:
    file = folder / "config.json"
    data = json.loads(file.read_text())
    data["policy"]["network_options"] |= options
    file.write_text(json.dumps(data))
    with pytest.raises(PcmError, match=r"config.json"):
        DiffusionPolicy.from_pretrained(folder)


def change(folder: Path, name: str, column: int, value: float) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[column] = value
    save_file(tensors, file)


@same
@given(
    st.sampled_from(["obs_normalizer", "action_normalizer"]),
    st.sampled_from(
        [
            *[("scale", v) for v in (np.nan, np.inf, 0.0, -1.0, 1e-30)],
            *[("shift", v) for v in (np.nan, np.inf)],
            *[("low", v) for v in (np.nan, np.inf, 10.0)],
            *[("high", v) for v in (np.nan, -np.inf, -10.0)],
        ]
    ),
)
def test_statistics_are_checked_when_they_are_loaded(
    tmp_path_factory: pytest.TempPathFactory, name: str, case: tuple[str, float]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    policy = make()
    for part in (policy.obs_normalizer, policy.action_normalizer):
        part.scale.fill_(1.0)
        part.low.fill_(-1.0)
        part.high.fill_(1.0)
    policy.save_pretrained(folder / "p")
    key, value = case
    change(folder / "p", f"{name}.{key}", 1, value)
    with pytest.raises(PcmError, match=rf"model.safetensors: {name}.* in dimension 1") as caught:
        DiffusionPolicy.from_pretrained(folder / "p")
    assert "\n" not in str(caught.value)
    with pytest.raises(PcmError, match=name):  # whoever loads it, as LeRobot's plugin does
        make().load_state_dict(load_file(folder / "p" / "model.safetensors"))


def test_weights_are_finite(folder: Path) -> None:
    name = next(n for n in load_file(folder / "model.safetensors") if n.startswith("network."))
    change(folder, name, 0, np.nan)
    with pytest.raises(PcmError, match=rf"{name} holds NaN"):
        DiffusionPolicy.from_pretrained(folder)


@pytest.mark.parametrize(
    ("observations", "match"),
    [
        (torch.zeros(3, 2, 4), "shape"),
        (torch.zeros(3, 2), "no .n, To, Do"),
        (torch.full((3, 2, 3), torch.nan), "NaN"),
        (torch.zeros(3, 2, 3, dtype=torch.int64), "no .n, To, Do"),
    ],
)
def test_observations_are_the_policy_s(
    folder: Path, observations: torch.Tensor, match: str
) -> None:
    save_file({"observations": observations}, folder / "observations.safetensors")
    with pytest.raises(PcmError, match=match):
        DiffusionPolicy.from_pretrained(folder)


def test_the_caller_s_default_type_does_not_matter(folder: Path) -> None:
    expected = DiffusionPolicy.from_pretrained(folder, seed=3).predict(OBS)
    torch.set_default_dtype(torch.float64)
    try:
        found = DiffusionPolicy.from_pretrained(folder, seed=3).predict(OBS)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found.chunk, expected.chunk)


def test_what_came_with_a_policy_is_saved_with_it(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\na: b\n---\n# Karte für José\n", encoding="utf-8")
    tensors = load_file(folder / "observations.safetensors")
    sights = {"sight.cam": torch.ones(2, 2, 4, 4, 3, dtype=torch.uint8)}
    save_file(tensors | sights, folder / "observations.safetensors")
    DiffusionPolicy.from_pretrained(folder).save_pretrained(tmp_path / "again")
    DiffusionPolicy.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "thrice")
    for name in ("README.md", "observations.safetensors", "config.json"):
        assert (tmp_path / "thrice" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
@pytest.mark.parametrize("runtime", [None, RuntimeConfig()])
def test_a_policy_may_go_to_another_process(how: str, runtime: RuntimeConfig | None) -> None:
    policy = make("window")
    if runtime is not None:
        policy.use(Runtime(policy, runtime))
    policy.predict(OBS)  # the generator has moved on
    other = pickle.loads(pickle.dumps(policy)) if how == "pickle" else copy.deepcopy(policy)
    assert isinstance(other.execute, Runtime) == (runtime is not None)
    assert not isinstance(other.execute, Runtime) or other.execute.policy is other
    np.testing.assert_array_equal(other.predict(OBS).chunk, policy.predict(OBS).chunk)
