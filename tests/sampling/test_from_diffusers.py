"""``from_diffusers``: the samples of diffusers' own loops, or a refusal that names the setting."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.sampling.diffusers import KINDS, from_diffusers
from pcm_policy.sampling.library import Conditional, Guided, Sampling
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers import Anderson, Picard, Sequential, Tolerance
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.sample import sample
from tests.imaging import drawn, loop, unet, wobble

D: Any = diffusers
GRID: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("DDIMScheduler", 10, {}, {}),
    ("DDIMScheduler", 10, {"beta_schedule": "scaled_linear", "steps_offset": 1}, {}),
    ("DDIMScheduler", 10, {"timestep_spacing": "linspace", "clip_sample_range": 0.7}, {}),
    ("DDIMScheduler", 12, {"timestep_spacing": "trailing"}, {"eta": 0.6}),
    ("DDIMScheduler", 10, {"clip_sample": False, "set_alpha_to_one": False}, {}),
    ("DDIMScheduler", 10, {}, {"use_clipped_model_output": True, "eta": 1.0}),
    ("DDIMScheduler", 5, {"trained_betas": [0.01, 0.02, 0.04, 0.06, 0.09]}, {}),
    (
        "DDIMScheduler",
        9,
        {
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
            "timestep_spacing": "trailing",
        },
        {},
    ),
    ("DDIMParallelScheduler", 10, {"prediction_type": "sample"}, {}),
    ("DDPMScheduler", 20, {}, {}),
    ("DDPMScheduler", 20, {"beta_schedule": "sigmoid", "variance_type": "fixed_large"}, {}),
    ("DDPMScheduler", 20, {"variance_type": "fixed_small_log", "clip_sample": False}, {}),
    ("DDPMParallelScheduler", 15, {"beta_schedule": "squaredcos_cap_v2"}, {}),
    ("DPMSolverMultistepScheduler", 10, {}, {}),
    ("DPMSolverMultistepScheduler", 20, {"solver_order": 3, "use_karras_sigmas": True}, {}),
    ("DPMSolverMultistepScheduler", 10, {"solver_order": 1, "timestep_spacing": "trailing"}, {}),
    (
        "DPMSolverMultistepScheduler",
        10,
        {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"},
        {},
    ),
    ("EulerDiscreteScheduler", 10, {}, {}),
    ("EulerDiscreteScheduler", 10, {"timestep_spacing": "leading", "use_karras_sigmas": True}, {}),
    (
        "EulerDiscreteScheduler",
        10,
        {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"},
        {},
    ),
    ("FlowMatchEulerDiscreteScheduler", 10, {"shift": 3.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", 10, {"use_karras_sigmas": True}, {}),
]


def made(name: str, config: dict[str, Any]) -> Any:
    """Return a scheduler, or skip what a diffusers older than 0.35 has no setting for."""
    try:
        return getattr(D, name)(**config)
    except TypeError as error:
        if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 35):
            raise
        pytest.skip(f"diffusers {diffusers.__version__}: {error}")


@pytest.mark.parametrize(("name", "steps", "config", "step"), GRID)
def test_a_scheduler_gives_the_sample_of_its_own_loop(
    name: str, steps: int, config: dict[str, Any], step: dict[str, Any]
) -> None:
    trained = {"num_train_timesteps": 5} if "trained_betas" in config else {}
    scheduler = made(name, config | trained)
    noise = drawn(2, steps)
    # Euler's loop divides by its levels in float32: both sides see float32 values here
    theirs = loop(scheduler, steps, wobble, noise.initial, **step)
    before = dict(scheduler.config)
    found = sample(wobble, from_diffusers(scheduler, steps, **step), noise, Solver(Sequential()))
    scale = theirs.abs().amax().clamp(min=1)
    torch.testing.assert_close(found.sample / scale, theirs / scale, atol=1e-4, rtol=0)
    assert dict(scheduler.config) == before


def test_every_kind_is_in_the_grid() -> None:
    assert {name for name, *_ in GRID} == set(KINDS)


def test_timesteps_that_the_scheduler_has() -> None:
    scheduler = D.DDPMScheduler()
    scheduler.set_timesteps(timesteps=[900, 500, 100, 0])
    assert from_diffusers(scheduler).sampler.timesteps.tolist() == [900, 500, 100, 0]
    assert from_diffusers(D.DDPMScheduler(num_train_timesteps=30)).steps == 30


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("DDIMScheduler", {"thresholding": True}, "thresholding=True"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type='learned'"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
        ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "midpoint"),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, "stochastic_sampling"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, "mu"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, "pure"),
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "use_flow_sigmas"),
        ("DPMSolverMultistepScheduler", {"num_train_timesteps": 10}, "twice: use fewer steps"),
        ("PNDMScheduler", {}, "DDIMScheduler.from_config"),
        ("HeunDiscreteScheduler", {}, "PNDMScheduler|Heun"),
    ],
)
def test_what_has_no_counterpart_is_refused(name: str, config: dict[str, Any], said: str) -> None:
    scheduler = made(name, config)
    with pytest.raises(PcmError, match=said):
        from_diffusers(scheduler, 10)


def test_a_setting_that_nobody_knows_is_refused() -> None:
    class DDIMScheduler(D.DDIMScheduler):  # of a later diffusers, say
        def __init__(self, swirl: int = 2) -> None:
            super().__init__()
            self.register_to_config(swirl=swirl)

    with pytest.raises(PcmError, match="swirl=2"):
        from_diffusers(DDIMScheduler(), 10)
    for wrong in ({"steps": 0}, {"steps": 2000}, {"eta": 1.5}):
        with pytest.raises(PcmError):
            from_diffusers(D.DDIMScheduler(), **{"steps": 10, **wrong})
    for name in KINDS:
        with pytest.raises(PcmError, match="steps=0"):
            from_diffusers(getattr(D, name)(), 0)
    with pytest.raises(PcmError, match="eta"):
        from_diffusers(D.DDPMScheduler(), 10, eta=0.5)


@pytest.mark.parametrize(
    ("name", "steps"),
    [(n, 8) for n in ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler")]
    + [("FlowMatchEulerDiscreteScheduler", 8)],
)
def test_settings_of_the_scheduler_before_it_are_not_read(
    name: str, steps: int, tmp_path: Path
) -> None:
    """A saved DDPM's settings stay in the configuration of the scheduler that is made of them."""
    D.DDPMScheduler(prediction_type="v_prediction", variance_type="fixed_small").save_pretrained(
        tmp_path
    )
    saved = D.DDPMScheduler.from_pretrained(tmp_path).config
    scheduler, noise = getattr(D, name).from_config(saved), drawn(2, 0)
    assert scheduler.config["variance_type"] == "fixed_small"
    theirs = loop(scheduler, steps, wobble, noise.initial)
    found = sample(wobble, from_diffusers(scheduler, steps), noise, Solver(Sequential()))
    torch.testing.assert_close(found.sample, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=["picard", "anderson"])
def test_small_steps_with_clipping_end_at_the_sequential_sample(solver: Any) -> None:
    """DDIM's far states grow from round to round; the final ones stay finite."""
    own, noise = from_diffusers(D.DDIMScheduler(), 600), Noise(drawn(1, 0).initial[:, :1, :2])
    exact = sample(wobble, own, noise, Solver(Sequential()))
    found = sample(wobble, own, noise, Solver(solver, Tolerance(error=1e-4)))
    assert found.certified.all()
    torch.testing.assert_close(found.sample, exact.sample, atol=1e-4, rtol=0)
    half = Noise(noise.initial.half())
    assert sample(wobble, from_diffusers(D.DDIMScheduler(), 5), half).sample.isfinite().all()


def test_guidance_is_two_calls_in_one_batch() -> None:
    network = unet(num_class_embeds=4)
    calls: list[int] = []

    def counted(x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> Any:
        calls.append(len(x))
        return network(x, t, label)

    label, noise = torch.tensor([0, 2]), drawn(2, 0)
    x, t = noise.initial, torch.tensor([400, 400])
    found = Guided(counted, 2.5, torch.tensor(3))(x, t, label)
    none = network(x, t, torch.tensor([3, 3])).sample
    given = network(x, t, label).sample
    assert calls == [4]
    torch.testing.assert_close(found, none + 2.5 * (given - none), atol=1e-6, rtol=1e-5)
    plain = Guided(network, 1.0, torch.tensor(3))(x, t, label)
    torch.testing.assert_close(plain, Conditional(network)(x, t, label), atol=1e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    own = Sampling.of(NoiseSchedule("linear", 100), SamplerConfig("ddim", 5), "epsilon")
    noise = Noise(torch.randn(2, 3, 4))
    with pytest.raises(PcmError, match="returned NoneType"):
        sample(lambda x, t: None, own, noise)
    with pytest.raises(PcmError, match="noise is a Tensor: give a Noise"):
        sample(lambda x, t: x, own, noise.initial)  # type: ignore[arg-type]
    with pytest.raises(PcmError, match="solver is a Picard: give a Solver"):
        sample(lambda x, t: x, own, noise, Picard())  # type: ignore[arg-type]
    for wrong in (torch.zeros(0, 3, 4), torch.zeros(2, 3, 4, dtype=torch.int32)):
        with pytest.raises(PcmError, match=r"noise is torch\..* a row or more"):
            sample(lambda x, t: x, own, Noise(wrong))
    for clip in (0.0, -1.0, float("nan")):
        with pytest.raises(PcmError, match="clip"):
            Sampling(own.sampler, "epsilon", clip)
    with pytest.raises(PcmError, match="prediction='eps'"):
        Sampling(own.sampler, "eps")  # type: ignore[arg-type]
    with pytest.raises(PcmError, match="3 rows"):
        sample(lambda x, t, c: x, own, noise, cond=torch.zeros(3))
    with pytest.raises(PcmError, match="takes a condition"):
        sample(Conditional(lambda x, t, c: x), own, noise)
    with pytest.raises(PcmError, match=r"\(B, 1\)"):
        sample(lambda x, t: x, own, Noise(torch.randn(2)))
    with pytest.raises(PcmError, match="flow_velocity"):
        Sampling.of(NoiseSchedule("flow"), SamplerConfig("flow_euler", 5), "epsilon")
    with pytest.raises(PcmError, match="flow's"):
        Sampling.of(NoiseSchedule(), SamplerConfig("ddim", 5), "flow_velocity")
    with pytest.raises(PcmError, match="finite"):
        Guided(lambda x, t, c: x, float("nan"), torch.tensor(0))
