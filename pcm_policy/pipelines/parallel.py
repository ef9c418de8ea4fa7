"""Image pipelines of diffusers in parallel rounds: the images of the pipeline they came from."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pcm_policy.checks import whole
from pcm_policy.errors import PcmError
from pcm_policy.heads.base import Head
from pcm_policy.optional import require
from pcm_policy.sampling.diffusers import from_diffusers
from pcm_policy.sampling.library import Conditional, Guided, Plain, Sampling
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.loop import collect, rounds, start
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.sample import USUAL, measured_jacobian
from pcm_policy.solvers.step import needs
from pcm_policy.solvers.system import Iterate, Round

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
JACOBIAN_ROWS = 16
"""Images of their own that quasi-Newton steps are measured on, once for each sampler."""


class ParallelPipeline:
    """The images of a DDPM or DDIM pipeline of diffusers, in parallel rounds.

    It takes the arguments of the pipeline's call, draws the same noise from ``generator`` in the
    same order, and returns the same images: to the solver's tolerance, by default 1e-3 of pixels in
    [-1, 1], an eighth of a grey level. With class labels it samples from a conditional network,
    which these pipelines of diffusers cannot, and guides it.

    Args:
        pipe: of diffusers; its network, scheduler and progress bar are used, and not changed.
        solver: how; by default Anderson rounds until each image is certified to 1e-3.
        head: a PCM head and the sampling that it was distilled for, where the solver uses one.
        seed: of the noise that quasi-Newton steps are measured with.

    Attributes:
        last: the newest solve: rounds, certificates, bounds. None before the first call.

    Raises:
        PcmError: another kind of pipeline, or a solver that needs a head and has none.

    Example:
        ``ParallelPipeline.from_pipe(DDIMPipeline.from_pretrained(...))(batch_size=4).images``
    """

    def __init__(
        self,
        pipe: Any,
        solver: Solver = USUAL,
        head: tuple[Head, Sampling] | None = None,
        seed: int = 0,
    ) -> None:
        name = type(pipe).__name__
        if name not in PIPELINES:
            raise PcmError(f"{name} is not solved in parallel: {' and '.join(PIPELINES)} are")
        if not isinstance(solver, Solver):
            raise PcmError(f"solver is a {type(solver).__name__}: give a Solver")
        if solver.uses_head and head is None:
            raise PcmError(f"solver={solver.method} needs a head: give head=(head, sampling)")
        if solver.sampler is not None:
            raise PcmError("the scheduler says which sampler: give a solver without one")
        self.pipe: Any = pipe
        self.solver: Solver = solver
        self.head: tuple[Head, Sampling] | None = head
        self.seed: int = seed
        self.last: SolveResult | None = None
        self._jacobians: dict[tuple[Any, ...], Jacobian] = {}

    @classmethod
    def from_pipe(cls, pipe: Any, **options: Any) -> "ParallelPipeline":
        """Return it from a pipeline; options are the other arguments of the class."""
        return cls(pipe, **options)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        *,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        class_labels: Tensor | None = None,
        guidance_scale: float = 1.0,
        null_label: int | None = None,
    ) -> Any:
        """Sample images.

        Args:
            batch_size: images.
            generator: one, or one for each image.
            num_inference_steps: by default the pipeline's own.
            eta: DDIM's noise.
            use_clipped_model_output: DDIM's.
            output_type: ``pil``, ``np`` or ``pt``.
            return_dict: False for a tuple.
            class_labels: ``(B,)`` int64, of a network with ``num_class_embeds``.
            guidance_scale: of classifier-free guidance; 1 is none.
            null_label: the label that stands for none; by default the network's last.

        Returns:
            diffusers' ``ImagePipelineOutput``, or its tuple.

        Raises:
            PcmError: a wrong argument, a scheduler that has no counterpart here, or images that are
                not finite.
        """
        whole("batch_size", batch_size, 1)
        if output_type not in ("pil", "np", "pt"):
            raise PcmError(f"output_type={output_type!r}: use pil, np or pt")
        if num_inference_steps is None:
            usual = inspect.signature(type(self.pipe).__call__).parameters["num_inference_steps"]
            num_inference_steps = int(usual.default)
        clipped = bool(use_clipped_model_output)
        scheduler = self.pipe.scheduler
        sampling = from_diffusers(
            scheduler, num_inference_steps, eta=eta, use_clipped_model_output=clipped
        )
        key = num_inference_steps, eta, clipped
        shape = None if class_labels is None else tuple(getattr(class_labels, "shape", ()))
        if shape not in (None, (batch_size,)):
            raise PcmError(
                f"class_labels={class_labels!r} and batch_size={batch_size}: give a tensor of "
                "labels, one for each image"
            )
        noise = self._noise(sampling, batch_size, generator)
        network = self._network(class_labels, guidance_scale, null_label)
        image = self._solve(network, sampling, noise, class_labels, key)
        if not bool(image.isfinite().all()):
            raise PcmError("the images are not finite: check the weights of the network")
        return self._output(image.to(self.pipe.unet.dtype), output_type, return_dict)

    def _noise(self, sampling: Sampling, batch: int, generator: Any) -> Noise:
        """Draw as the pipeline does: the initial noise, then each step's where the step adds any.

        Raises:
            PcmError: a scheduler whose pipeline scales its input, or too few generators.
        """
        name = type(self.pipe.scheduler).__name__
        if name.startswith(("Euler", "FlowMatch")):
            raise PcmError(f"{type(self.pipe).__name__} does not sample by {name}: see sample()")
        if isinstance(generator, list) and len(generator) != batch:
            raise PcmError(f"{len(generator)} generators and batch_size={batch}: give as many")
        draw = require("diffusers.utils.torch_utils", "a pipeline", "images").randn_tensor
        unet = self.pipe.unet
        size = unet.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        shape = batch, unet.config.in_channels, *size
        more = {"generator": generator, "device": unet.device, "dtype": unet.dtype}
        initial = draw(shape, **more)
        if not sampling.sampler.stochastic:
            return Noise(initial).to(unet.device, torch.float32)
        # DDPM draws none at timestep 0; DDIM with eta draws in every step
        ddim = name.startswith("DDIM")
        last = torch.zeros_like(initial)
        drawn = [
            draw(shape, **more) if ddim or t > 0 else last
            for t in sampling.sampler.timesteps.tolist()
        ]
        return Noise(initial, torch.stack(drawn)).to(unet.device, torch.float32)

    def _network(
        self, labels: Tensor | None, scale: float, null: int | None
    ) -> Plain | Conditional | Guided:
        """Return the network as ``D`` calls it.

        Raises:
            PcmError: labels for a network without, or none for one with.
        """
        unet = self.pipe.unet
        classes = getattr(unet.config, "num_class_embeds", None)
        if (labels is None) != (classes is None):
            said = "has no classes" if classes is None else "needs class_labels"
            raise PcmError(f"the network {said}: see num_class_embeds in its config")
        called = unet if unet.dtype == torch.float32 else InType(unet)
        if labels is None:
            if scale != 1:
                raise PcmError(f"guidance_scale={scale} needs class_labels")
            return Plain(called)
        if scale == 1:
            return Conditional(called)
        assert classes is not None
        none = int(classes) - 1 if null is None else null
        return Guided(called, scale, torch.tensor(none, device=unet.device))

    def _solve(
        self,
        network: Plain | Conditional | Guided,
        sampling: Sampling,
        noise: Noise,
        labels: Tensor | None,
        key: tuple[Any, ...],
    ) -> Tensor:
        solver, head = self.solver, None
        if self.head is not None:
            head = self.head[0]
            self._check_head(sampling)
        jacobian = None
        if "jacobian" in needs(solver.step):
            jacobian = self._jacobian(network, sampling, noise, labels, key)
        denoise = sampling.denoiser(network, noise, labels)
        s, x = start(denoise, noise, head=head, jacobian=jacobian)
        with self.pipe.progress_bar(total=sampling.steps) as bar:
            walk = shown(rounds(s, x, solver.step, solver.stop), bar)
            self.last = collect(walk, solver.stop)
        self.pipe.maybe_free_model_hooks()
        return self.last.sample

    def _check_head(self, sampling: Sampling) -> None:
        """Refuse a head of another sampler."""
        assert self.head is not None
        own = self.head[1].sampler
        fits = own.steps == sampling.steps and torch.allclose(own.M, sampling.sampler.M)
        if not fits or not torch.equal(own.timesteps, sampling.sampler.timesteps):
            raise PcmError(
                f"the head was distilled for another sampler, of {own.steps} steps: sample with "
                "the scheduler and num_inference_steps that it was distilled for"
            )

    def _jacobian(
        self,
        network: Plain | Conditional | Guided,
        sampling: Sampling,
        noise: Noise,
        labels: Tensor | None,
        key: tuple[Any, ...],
    ) -> Jacobian:
        """Return the mean Jacobian, measured once for each sampler on noise of its own."""
        if key not in self._jacobians:
            generator = torch.Generator().manual_seed(self.seed)
            like, shape = noise.initial, (JACOBIAN_ROWS, *noise.initial.shape[1:])
            steps = sampling.sampler.noise_steps
            each = torch.randn(steps, *shape, generator=generator) if steps else None
            own = Noise(torch.randn(shape, generator=generator), each).to(like.device, like.dtype)
            if labels is not None:
                labels = labels.repeat(JACOBIAN_ROWS)[:JACOBIAN_ROWS]
            self._jacobians[key] = measured_jacobian(network, sampling, own, labels)
        return self._jacobians[key]

    def _output(self, image: Tensor, output_type: str, return_dict: bool) -> Any:
        """Return the images as diffusers does, from pixels in [-1, 1]."""
        found: Any = (image / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            found = found.cpu().permute(0, 2, 3, 1).float().numpy()
            found = self.pipe.numpy_to_pil(found) if output_type == "pil" else found
        if not return_dict:
            return (found,)
        return require("diffusers", "a pipeline", "images").ImagePipelineOutput(images=found)


class InType(nn.Module):
    """A network of another type than the states': bfloat16 weights, float32 solve."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, *cond: Tensor) -> Tensor:
        """Return the output in the type of ``x``."""
        found: Tensor = self.network(x.to(self.network.dtype), t, *cond)[0]
        return found.to(x.dtype)


def shown(
    walk: Iterable[tuple[Round, Iterate, Tensor]], bar: Any
) -> Iterator[tuple[Round, Iterate, Tensor]]:
    """Yield the same rounds; the bar shows how many states are final, then that all are."""
    for r, x, residual in walk:
        bar.update(x.lo - bar.n)
        bar.set_postfix(rounds=x.k)
        yield r, x, residual
    bar.update(bar.total - bar.n)
