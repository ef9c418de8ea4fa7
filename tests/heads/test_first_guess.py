"""The chunk a PCM solve starts from: predicted by the head, and without a say in where it ends."""

from dataclasses import replace

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.heads.window import WindowHead
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.sampling.affine import clean_predictions
from pcm_policy.sampling.denoise import Denoiser, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import Picard, Rounds, loop
from pcm_policy.solvers.loop import clipped_start, start
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.system import System, forcing
from pcm_policy.training.batches import Windows
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.guessing import FLOOR, near_sampler
from pcm_policy.training.headed import with_head
from pcm_policy.training.sharing import Share
from tests.solving import picard, sequential, solve

B, T, DA, STEPS = 3, 8, 2, 6


def policy(
    guess: bool = True,
    nodes: int | None = 3,
    sampler: str = "ddim",
    prefix_steps: int = 0,
    guess_nodes: tuple[int, ...] | None = None,
) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1, "step_embed_dim": 8}
    base = DiffusionPolicy(
        PolicyConfig(
            3, DA, horizon=T, action_steps=4, network_options=network, prefix_steps=prefix_steps
        )
    )
    options = {"width": 12, "nodes": nodes, "guess_width": 10 * guess, "guess_noises": "auto"}
    options["guess_nodes"] = guess_nodes
    chosen = {"name": sampler, "steps": STEPS}
    made = with_head(base, {"name": "window", "options": options}, chosen, seed=0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


def noise(seed: int = 1) -> Noise:
    return Noise(torch.randn(B, T, DA, generator=torch.Generator().manual_seed(seed)))


def parts(made: DiffusionPolicy, prefix: Prefix | None = None) -> tuple[Denoiser, WindowHead]:
    assert made.config.head is not None
    assert isinstance(made.head, WindowHead)
    cond = torch.randn(B, 6, generator=torch.Generator().manual_seed(2))
    return made.denoiser(cond, made.config.head.sampler, prefix), made.head


@pytest.mark.parametrize(("sampler", "noises"), [("ddim", [0]), ("ddpm", list(range(STEPS)))])
@torch.no_grad()
def test_it_sees_noise_observation_and_what_is_known(sampler: str, noises: list[int]) -> None:
    """Row by row by hand: the noise, of a stochastic sampler of every step, known actions, obs."""
    known = (torch.arange(T) < 3)[None, :, None]
    denoise, head = parts(
        policy(nodes=None, sampler=sampler), Prefix(torch.full((B, T, DA), 0.7), known)
    )
    assert head.guess_noises == len(noises)
    steps = torch.randn(STEPS, B, T, DA, generator=torch.Generator().manual_seed(3))
    drawn = Noise(noise().initial, steps if sampler == "ddpm" else None)
    forced = forcing(denoise.sampler, drawn)
    found = head.start(System(denoise, drawn, forced))
    assert found is not None
    guess = head.guess
    assert guess is not None
    shown = torch.where(known[0], 0.7, 0.0).expand(T, DA).flatten()
    mask = known[0].expand(T, DA).flatten().float()
    for b in range(B):
        seen = torch.cat([*(forced[i, b].flatten() for i in noises), shown, mask, denoise.cond[b]])
        h, c = guess.inp(seen[None]), guess.cond(denoise.cond[b : b + 1])
        for block in guess.blocks:
            h = block(h, c)
        clean = torch.where(known[0], 0.7, guess.out(h).view(T, DA))
        torch.testing.assert_close(found[b], clean, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nodes", [3, None])
@torch.no_grad()
def test_a_pcm_solve_starts_from_it_and_others_do_not(nodes: int | None) -> None:
    made = policy(nodes=nodes)
    denoise, head = parts(made)
    given = clipped_start(start(denoise, noise(), head=head)[0])
    assert given is not None
    assert given.shape == (B, T, DA)
    assert made.config.head is not None
    pcm = Solver.of("pcm", made.config.head.sampler, rounds=2)
    found = solve(pcm, denoise, noise(), head)
    same = picard(denoise, noise(), rounds=2, head=head, shares=(1.0, 1.0))
    assert torch.equal(found.trajectory, same.trajectory)
    warm = torch.full((B, T, DA), 0.3)
    mine = solve(pcm, denoise, noise(), head, warm)
    half = warm.clone()
    half[1] = torch.nan  # this row has no guess of its own
    mixed = solve(pcm, denoise, noise(), head, half).trajectory
    torch.testing.assert_close(mixed[:, 1], found.trajectory[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[:, ::2], mine.trajectory[:, ::2], rtol=0, atol=1e-5)
    assert not torch.allclose(mine.sample, found.sample, atol=1e-3)
    base = replace(pcm, step=Picard())
    plain = picard(denoise, noise(), rounds=2)
    nobody = torch.full((B, T, DA), torch.nan)
    assert torch.equal(solve(base, denoise, noise(), head, nobody).sample, plain.sample)
    assert torch.equal(solve(base, denoise, noise(), head).sample, plain.sample)
    assert clipped_start(start(denoise, noise(), head=policy(guess=False).head)[0]) is None


@pytest.mark.parametrize("adaptive", [False, True])
@torch.no_grad()
def test_the_fixed_point_does_not_depend_on_it(adaptive: bool) -> None:
    made = policy()
    denoise, head = parts(made)
    assert made.config.head is not None
    solver = made.solver({"method": "adaptive" if adaptive else "pcm", "tolerance": 1e-6})
    found = solve(solver, denoise, noise(), head)
    exact = sequential(denoise, noise())
    torch.testing.assert_close(found.sample, exact.sample, rtol=0, atol=1e-5)
    assert found.certified.all()


@torch.no_grad()
def test_what_is_known_already_is_in_it() -> None:
    known = (torch.arange(T) < 3)[None, :, None]
    prefix = Prefix(torch.full((B, T, DA), 0.7), known)
    denoise, head = parts(policy(), prefix)
    found = head.start(start(denoise, noise())[0])
    assert found is not None
    assert (found[:, :3] == 0.7).all()
    assert (found[:, 3:] != 0.7).all()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_it_is_trained_beside_the_rounds_and_apart_from_them(sampler: str) -> None:
    torch.manual_seed(1)
    data = Windows(torch.randn(12, 6), torch.rand(12, T, DA) * 2 - 1)
    made = policy(sampler=sampler)
    head = made.head
    assert isinstance(head, WindowHead)
    assert head.guess is not None
    objective = Distillation(made, data, data, 6, 0, pool=12, guess_batch=24, prefix=0.0)
    assert objective.guessing is not None
    near = objective.guessing.targets
    assert (near.near is None) == (sampler == "ddpm")  # no other sampler has its noise
    pool = near(0)
    error = []
    for b in range(12):
        row = pool.pick(torch.tensor([b]))
        denoise = made.denoiser(row.cond, made.config.head.sampler, row.prefix)  # type: ignore[union-attr]
        first = head.start(System(denoise, Noise(row.forced[0]), row.forced))
        assert first is not None
        off = first - row.exact[-1]
        error.append((off.square().mean() + FLOOR**2).sqrt())
    alone = torch.stack(error).mean()  # 24 rows are every row of the pool, twice
    both = objective.loss(head.train(), 0, Share(0, 1))
    objective.guessing = None
    rounds = objective.loss(head, 0, Share(0, 1))
    torch.testing.assert_close(both, rounds + alone, rtol=1e-5, atol=1e-6)
    rounds.backward()
    assert all(p.grad is None for p in head.guess.parameters())
    both.backward()
    assert head.guess.inp.weight.grad is not None


@torch.no_grad()
def test_its_targets_are_a_few_steps_that_end_near_the_samplers_chunk() -> None:
    made = policy()
    assert made.config.head is not None
    cond = torch.randn(16, 6, generator=torch.Generator().manual_seed(4))
    drawn = Noise(torch.randn(16, T, DA, generator=torch.Generator().manual_seed(5)))
    few = near_sampler(made, cond, drawn, 3)
    assert few is not None
    assert (few.name, few.steps) == ("dpmpp_2m", 3)
    exact = sequential(made.denoiser(cond, made.config.head.sampler), drawn).sample

    def error(sampler: SamplerConfig) -> float:
        return float((sequential(made.denoiser(cond, sampler), drawn).sample - exact).abs().mean())

    assert error(few) < error(SamplerConfig("dpmpp_2m", 3))


PATH = (1, 2, 4)
"""Of six nodes: some before the first, between them and after the last one."""


@pytest.mark.parametrize("known", [False, True])
@torch.no_grad()
def test_a_path_is_interpolated_between_its_nodes(known: bool) -> None:
    prefix = None
    if known:
        prefix = Prefix(torch.full((B, T, DA), 0.5), torch.arange(T)[None, :, None] < 2)
    denoise, head = parts(policy(guess_nodes=PATH), prefix)
    s = System(denoise, noise(), forcing(denoise.sampler, noise()), head)
    said, path = head.guesses(s), head.start(s)
    assert said is not None
    assert path is not None
    assert said.shape == (len(PATH), B, T, DA)
    assert path.shape == (STEPS, B, T, DA)
    level = (denoise.sampler.alpha / denoise.sampler.sigma).log()
    for node in range(STEPS):
        right = min((i for i, at in enumerate(PATH) if at >= node), default=len(PATH) - 1)
        left = max((i for i, at in enumerate(PATH) if at <= node), default=0)
        if left == right:
            wanted = said[left]
        else:
            a, b = level[PATH[left]], level[PATH[right]]
            share = (level[node] - a) / (b - a)
            wanted = (1 - share) * said[left] + share * said[right]
        torch.testing.assert_close(path[node], wanted, rtol=1e-5, atol=1e-5)
        if prefix is not None:
            assert torch.equal(path[node][:, :2], torch.full((B, 2, DA), 0.5))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp_2m"])
@torch.no_grad()
def test_what_the_base_predicted_is_in_the_states(sampler: str) -> None:
    made = policy(sampler=sampler)
    denoise, _ = parts(made)
    draw = torch.Generator().manual_seed(1)
    drawn = Noise(*torch.randn(1 + STEPS, B, T, DA, generator=draw).split([1, STEPS]))
    drawn = replace(drawn, initial=drawn.initial[0])
    drawn = drawn if denoise.sampler.stochastic else replace(drawn, steps=None)
    states = sequential(denoise, drawn).trajectory
    found = clean_predictions(denoise.sampler, states, forcing(denoise.sampler, drawn))
    wanted = denoise(states[:-1], slice(0, STEPS))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_solve_from_a_path_ends_where_every_other_ends() -> None:
    made = policy(guess_nodes=PATH)
    denoise, head = parts(made)
    exact = sequential(denoise, noise()).sample
    s, x = start(denoise, noise(), head=head)
    assert x.P.shape == (STEPS, B, T, DA)
    torch.testing.assert_close(x.P, head.start(s).clamp(-1, 1))  # type: ignore[union-attr]
    found = loop.solve(s, x, Picard(), Rounds(STEPS)).sample
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


@torch.no_grad()
def test_rows_with_a_guess_of_their_own_do_not_take_the_path() -> None:
    denoise, head = parts(policy(guess_nodes=PATH))
    given = torch.full((B, T, DA), 0.25)
    given[1] = torch.nan
    s, x = start(denoise, noise(), guess=given, head=head)
    own = clipped_start(s)
    assert own is not None
    assert torch.equal(x.P[:, 1], own[:, 1])
    assert torch.equal(x.P[:, 0], given[0].expand(STEPS, T, DA))


def test_a_path_is_trained_on_what_the_base_predicts_on_the_way() -> None:
    """The mean over its nodes, and the last node once more; never on another sampler's path."""
    torch.manual_seed(1)
    made = policy(guess_nodes=PATH)
    data = Windows(torch.randn(12, 6), torch.rand(12, T, DA) * 2 - 1)
    objective = Distillation(made, data, data, 6, 0, pool=12, guess_batch=12, prefix=0.0, warm=0.0)
    assert objective.guessing is not None
    assert objective.guessing.targets is objective.targets
    assert made.head is not None
    pool = objective.targets(0)
    s = System(
        made.denoiser(pool.cond, made.config.head.sampler),  # type: ignore[union-attr]
        Noise(pool.forced[0]),
        pool.forced,
    )
    said = made.head.guesses(s)
    assert said is not None
    losses = []
    for place, node in enumerate(PATH):
        wanted = s.denoise(pool.exact[node : node + 1], slice(node, node + 1))[0]
        error = (said[place] - wanted).square().mean(dim=(1, 2))
        losses.append((error + FLOOR**2).sqrt().mean())
    found = objective.guessing.loss(made.head, 0, Share(0, 1))
    torch.testing.assert_close(found, torch.stack(losses).mean() + losses[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nodes", [(), (2, 1), (1, 1), (0, STEPS)])
def test_nodes_of_a_path_ascend_and_exist(nodes: tuple[int, ...]) -> None:
    with pytest.raises(PcmError, match=r"head.options.guess_nodes=.*: name states from 0 to 5"):
        policy(guess_nodes=nodes)


def test_a_path_needs_a_first_guess() -> None:
    with pytest.raises(PcmError, match=r"guess_nodes=\[1, 2, 4\]: guess_width is 0"):
        policy(guess=False, guess_nodes=PATH)


@pytest.mark.parametrize("mode", ["onnx", "openvino"])
def test_engines_start_from_the_path(mode: str) -> None:
    pytest.importorskip("onnxruntime" if mode == "onnx" else mode)
    made, obs = policy(guess_nodes=PATH), torch.rand(1, 2, 3) * 2 - 1
    solver = made.solver({"method": "pcm", "rounds": 1})
    drawn = Noise(noise().initial[:1])
    want = made.solve(obs, solver, drawn).sample
    made.use(RuntimeConfig(mode=mode))  # type: ignore[arg-type]
    torch.testing.assert_close(made.solve(obs, solver, drawn).sample, want, rtol=0, atol=1e-4)
