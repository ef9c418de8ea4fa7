"""``ParallelPipeline``: the images of the pipeline that it came from."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.heads import LoraHead
from pcm_policy.pipelines.parallel import ParallelPipeline
from pcm_policy.sampling.diffusers import from_diffusers
from pcm_policy.sampling.library import Conditional, Plain
from pcm_policy.solvers import PCM, Picard, Sequential, Tolerance
from pcm_policy.solvers.newton import MixedNewton
from pcm_policy.solvers.registry import Solver
from tests.imaging import drawn, unet, wobble

D: Any = diffusers
TOLERANCE = 1e-3


def pipe(kind: str, scheduler: str = "", **config: Any) -> Any:
    """Return a pipeline of an untrained network, which a v-prediction tames."""
    name = scheduler or kind.replace("Pipeline", "Scheduler")
    made = getattr(D, kind)(unet(), getattr(D, name)(prediction_type="v_prediction", **config))
    made.set_progress_bar_config(disable=True)
    return made


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("kind", "scheduler", "config", "call", "step"),
    [
        ("DDIMPipeline", "", {}, {}, Picard()),
        ("DDIMPipeline", "", {"timestep_spacing": "trailing"}, {"eta": 0.5}, MixedNewton()),
        ("DDIMPipeline", "", {}, {"eta": 1.0, "use_clipped_model_output": True}, Sequential()),
        ("DDPMPipeline", "", {}, {}, None),
        ("DDPMPipeline", "DPMSolverMultistepScheduler", {}, {}, Sequential()),
    ],
)
def test_the_images_are_those_of_the_pipeline(
    kind: str, scheduler: str, config: dict[str, Any], call: dict[str, Any], step: Any
) -> None:
    own = pipe(kind, scheduler, **config)
    more = {"batch_size": 2, "num_inference_steps": 10, "output_type": "np", **call}
    theirs = own(generator=seeded(), **more).images
    solver = {} if step is None else {"solver": Solver(step, step.usual)}
    ours = ParallelPipeline.from_pipe(own, **solver)
    found = ours(generator=seeded(), **more).images
    assert found.shape == theirs.shape
    assert np.abs(found - theirs).max() < TOLERANCE / 2  # pixels in [0, 1]
    assert ours.last is not None
    assert bool(ours.last.certified.all())
    assert isinstance(step, Sequential) or ours.last.rounds < 10


def test_output_types_and_a_generator_for_each_image() -> None:
    own = pipe("DDIMPipeline")
    ours = ParallelPipeline(own)
    more: dict[str, Any] = {"batch_size": 2, "num_inference_steps": 6}
    each = [seeded(1), seeded(2)]
    theirs = own(generator=[seeded(1), seeded(2)], **more, output_type="pt").images
    found = ours(generator=each, **more, output_type="pt", return_dict=False)[0]
    torch.testing.assert_close(found, theirs, atol=TOLERANCE / 2, rtol=0)
    own.numpy_to_pil = lambda images: ["pil"] * len(images)  # two channels are no picture
    assert ours(generator=seeded(), **more).images == ["pil", "pil"]


class Bar:
    """What a progress bar is told."""

    def __init__(self, total: int) -> None:
        self.total, self.n, self.rounds = total, 0, 0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, more: int) -> None:
        self.n += more

    def set_postfix(self, rounds: int) -> None:
        self.rounds = rounds


def test_the_bar_counts_final_states() -> None:
    own, bars = pipe("DDIMPipeline"), []
    own.progress_bar = lambda total: bars.append(Bar(total)) or bars[-1]
    ours = ParallelPipeline(own)
    ours(num_inference_steps=8, output_type="pt")
    assert ours.last is not None
    assert (bars[0].n, bars[0].rounds) == (8, ours.last.rounds)


def test_labels_and_guidance() -> None:
    own = D.DDIMPipeline(unet(num_class_embeds=4), D.DDIMScheduler(prediction_type="v_prediction"))
    own.set_progress_bar_config(disable=True)
    ours = ParallelPipeline(own)
    label = torch.tensor([0, 1])
    more: dict[str, Any] = {"batch_size": 2, "num_inference_steps": 6, "output_type": "pt"}
    call = {"class_labels": label, "guidance_scale": 2.0}
    found = ours(generator=seeded(), **more, **call).images
    x, network, none = drawn(2, 0).initial, own.unet, torch.tensor([3, 3])
    x = torch.randn(2, 2, 8, 8, generator=seeded())
    own.scheduler.set_timesteps(6)
    with torch.no_grad():
        for t in own.scheduler.timesteps:
            apart, given = network(x, t, none).sample, network(x, t, label).sample
            x = own.scheduler.step(apart + 2.0 * (given - apart), t, x).prev_sample
    torch.testing.assert_close(found, (x / 2 + 0.5).clamp(0, 1), atol=TOLERANCE / 2, rtol=0)
    for wrong in ({}, {"class_labels": label[:1]}):
        with pytest.raises(PcmError, match="class_labels"):
            ours(**more, **wrong)


def test_a_head_of_its_sampler_and_of_another() -> None:
    own = pipe("DDIMPipeline")
    head, sampling = LoraHead(Plain(own.unet), rank=2).eval(), from_diffusers(own.scheduler, 8)
    solver = Solver(PCM(), Tolerance(error=TOLERANCE))
    ours = ParallelPipeline(own, solver, (head, sampling))
    more: dict[str, Any] = {"output_type": "pt", "num_inference_steps": 8}
    theirs = own(generator=seeded(), **more).images
    found = ours(generator=seeded(), **more).images
    torch.testing.assert_close(found, theirs, atol=TOLERANCE / 2, rtol=0)
    with pytest.raises(PcmError, match="of 8 steps"):
        ours(num_inference_steps=9)


def test_an_output_of_another_shape_is_refused() -> None:
    x, t = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    said = r"returned \(2, 1, 8\) for x \(2, 1, 8, 8\)"
    for output in (lambda x, *_: x[..., 0], lambda x, *_: (x[..., 0],)):
        with pytest.raises(PcmError, match=said):
            Plain(output)(x, t, t)
        with pytest.raises(PcmError, match=said):
            Conditional(output)(x, t, t)


def test_what_does_not_fit_is_refused() -> None:
    own = pipe("DDIMPipeline")
    with pytest.raises(PcmError, match="needs a head"):
        ParallelPipeline(own, Solver(PCM()))
    with pytest.raises(PcmError, match="function is not solved"):
        ParallelPipeline(wobble)
    ours = ParallelPipeline(own)
    for call, said in (
        ({"output_type": "jpg"}, "output_type='jpg'"),
        ({"generator": [seeded()], "batch_size": 2}, "1 generators"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 1.5}, "batch_size=1.5"),
        ({"class_labels": [1]}, r"class_labels=\[1\].*a tensor"),
        ({"class_labels": torch.zeros(2).long()}, "one for each image"),
        ({"class_labels": torch.zeros(1).long()}, "has no classes"),
        ({"guidance_scale": 2.0}, "needs class_labels"),
    ):
        with pytest.raises(PcmError, match=said):
            ours(num_inference_steps=5, **call)
    with pytest.raises(PcmError, match="solver is a Picard: give a Solver"):
        ParallelPipeline(own, Picard())  # type: ignore[arg-type]
    own.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(PcmError, match="not finite"):
        ours(num_inference_steps=5)
    own.scheduler = D.EulerDiscreteScheduler()
    with pytest.raises(PcmError, match="EulerDiscreteScheduler"):
        ours(num_inference_steps=5)
