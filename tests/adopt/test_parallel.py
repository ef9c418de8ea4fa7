"""Loops of other policies replaced from outside: the same chunks, and nothing left behind."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.adopt.multi_task_dit import MultiTaskDiT
from pcm_policy.adopt.parallel import parallel
from pcm_policy.adopt.vla import VLA
from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import Anderson, Newton, Picard, Rounds, Tolerance
from pcm_policy.solvers.registry import Solver
from tests.adopt.loops import DiT, N, Policy, T

SOLVERS: list[Any] = [
    {"method": "sequential"},
    {"method": "picard", "tolerance": 1e-5},
    {"method": "picard", "window": 4, "tolerance": 1e-5},
    {"method": "anderson", "tolerance": 1e-5},
    {"method": "newton", "tolerance": 1e-5},
    {"method": "coarse", "tolerance": 1e-5},
    {"method": "paradigms", "tolerance": 1e-6},
    Solver(Anderson(inner=Newton()), Tolerance(error=1e-5)),
    Solver(Picard(), Rounds(N)),
    None,
]
VLAS = {
    "smolvla": lambda **c: Policy("num_steps", **c),
    "pi0": lambda **c: Policy("num_inference_steps", state=True, **c),
    "pi05": lambda **c: Policy("num_inference_steps", **c),
}
DITS = {
    "ddpm": {},
    "ddpm-8": {"num_inference_steps": 8},
    "ddim": {"noise_scheduler_type": "DDIM", "num_inference_steps": 6},
    "flow": {"objective": "flow_matching"},
}
KINDS = VLAS | {name: lambda settings=settings: DiT(**settings) for name, settings in DITS.items()}


def limit(solver: Any) -> float:
    return 1e-3 if solver is None else 1e-5


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_chunk_is_the_policys_own(kind: str, solver: Any) -> None:
    policy, batch = KINDS[kind](), 3 if SOLVERS.index(solver) % 2 else 1
    own = [policy.predict_action_chunk(batch, seed) for seed in range(2)]
    if isinstance(solver, Solver) and solver.stop.fixed and kind not in VLAS:
        solver = Solver(Picard(), Rounds(12))  # as many as there are states
    with parallel(policy, solver) as rounds:
        found = [policy.predict_action_chunk(batch, seed) for seed in range(2)]
        assert rounds.last is not None
        assert rounds.last.certified.tolist() == [True] * batch
    for ours, theirs in zip(found, own, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=limit(solver))
    again = [policy.predict_action_chunk(batch, seed) for seed in range(2)]
    assert all(map(torch.equal, again, own))


def test_rows_that_end_early_keep_their_own_prefix() -> None:
    """Rows take different numbers of rounds and prompts; the rest of the batch goes on alone."""
    policy = VLAS["pi0"]()
    own = policy.predict_action_chunk(7)
    policy.model.rows = 0
    with VLA(policy, {"method": "picard", "tolerance": 1e-4}) as rounds:
        found = policy.predict_action_chunk(7)
    assert rounds.last is not None
    taken = rounds.last.row_rounds
    assert taken is not None
    assert len(set(taken.tolist())) > 1
    assert policy.model.rows < 7 * sum(range(1, N + 1))  # rows that ended are not evaluated
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
    assert not torch.allclose(own[0], own[1], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_known_actions_stay_as_they_are(kind: str) -> None:
    policy = KINDS[kind]()
    known = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    first = 0 if kind in VLAS else 1
    found = {}
    for method in ("sequential", "picard", "newton"):
        with parallel(policy, {"method": method}) as rounds:
            rounds.known = known
            found[method] = policy.predict_action_chunk(3)
        assert torch.equal(found[method][:, first : first + 2, :3], known)
        torch.testing.assert_close(found[method], found["sequential"], rtol=0, atol=1e-3)
    free = policy.predict_action_chunk(3)
    assert not torch.allclose(free[:, first + 2 :], found["picard"][:, first + 2 :], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_known_actions_that_do_not_fit_are_refused(kind: str) -> None:
    policy = KINDS[kind]()
    with parallel(policy) as rounds:
        for known in (torch.zeros(2, 4), torch.zeros(2, 1, 4), torch.zeros(1, T + 1, 4)):
            rounds.known = known
            with pytest.raises(PcmError, match="known actions have shape"):
                policy.predict_action_chunk(3)
        rounds.known = torch.full((1, 1, 4), torch.nan)
        with pytest.raises(PcmError, match="a known action is not finite"):
            policy.predict_action_chunk(3)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind: str) -> None:
    policy = KINDS[kind]()
    network = policy.model if kind in VLAS else policy.noise_predictor
    holder = policy.model if kind in VLAS else policy.objective
    before = set(vars(holder)), {k: v.clone() for k, v in network.state_dict().items()}
    rounds = parallel(policy, {"method": "picard"})
    own = policy.predict_action_chunk(3)
    with rounds, pytest.raises(PcmError, match="replaced already"):
        rounds.__enter__()
    network.net[0].weight.data.fill_(torch.nan)
    with rounds:
        with pytest.raises(PcmError, match="non-finite action"):
            policy.predict_action_chunk(3)
        network.load_state_dict(before[1])
        ours = policy.predict_action_chunk(3)  # what failed does not disturb the next
        torch.testing.assert_close(ours, own, rtol=0, atol=1e-3)
    assert set(vars(holder)) == before[0]
    assert all(torch.equal(v, before[1][k]) for k, v in network.state_dict().items())
    assert torch.equal(policy.predict_action_chunk(3), own)


def test_an_exception_leaves_the_block_and_the_attribute() -> None:
    policy = VLAS["smolvla"]()
    with pytest.raises(KeyError), parallel(policy):
        raise KeyError
    assert "denoise_step" not in vars(policy.model)


@pytest.mark.parametrize("kind", VLAS)
def test_guided_chunking_is_refused_in_every_call(kind: str) -> None:
    policy = VLAS[kind]()
    own = policy.predict_action_chunk(1)
    with parallel(policy) as rounds:
        policy.predict_action_chunk(1)
        policy.model.rtc = True  # LeRobot's rollout sets it after loading
        with pytest.raises(PcmError, match="real-time chunking"):
            policy.predict_action_chunk(1)
        policy.model.rtc = False
        torch.testing.assert_close(policy.predict_action_chunk(1), own, rtol=0, atol=1e-3)
        assert rounds.last is not None


def test_another_number_of_steps_is_refused() -> None:
    policy = VLAS["pi0"]()
    one = policy.predict_action_chunk(1)
    with parallel(policy):
        for steps in (2, 9, 50):
            with pytest.raises(PcmError, match=f"the loop runs {steps} steps .* says {N}"):
                policy.predict_action_chunk(1, num_steps=steps)
        # a single step cannot be seen to be one: it gives the chunk of the config
        chunk = policy.predict_action_chunk(1, num_steps=1)
        torch.testing.assert_close(chunk, one, rtol=0, atol=1e-3)


def test_what_cannot_be_solved_is_one_line() -> None:
    with pytest.raises(PcmError, match="smolvla, pi0, pi05 and multi_task_dit are"):
        parallel(object())
    with pytest.raises(PcmError, match="object is not a SmolVLA"):
        VLA(object())
    with pytest.raises(PcmError, match="object is not a multi_task_dit"):
        MultiTaskDiT(object())
    with pytest.raises(PcmError, match="compile_model=False"):
        parallel(VLAS["pi0"](compile_model=True))
    with pytest.raises(PcmError, match="integration_method='rk4'"):
        parallel(DiT(objective="flow_matching", integration_method="rk4"))
    with pytest.raises(PcmError, match="solver=pcm needs a PCM head"):
        parallel(VLAS["pi0"](), {"method": "pcm"})
    with pytest.raises(PcmError, match="no setting windw"):
        parallel(VLAS["pi0"](), {"method": "picard", "windw": 3})
    policy = VLAS["smolvla"](adapt_to_pi_aloha=True)
    with parallel(policy) as rounds:
        rounds.known = torch.zeros(1, 1, 4)
        with pytest.raises(PcmError, match="adapt_to_pi_aloha"):
            policy.predict_action_chunk(1)
        rounds.known = None
        masks, step = torch.ones(1, 2, dtype=torch.bool), policy.model.denoise_step
        x = torch.zeros(1, T, 5)
        with pytest.raises(PcmError, match="come as NoneType"):
            step(prefix_pad_masks=masks, past_key_values=None, x_t=x, timestep=torch.ones(1))
        with pytest.raises(PcmError, match="times for each action"):
            step(prefix_pad_masks=masks, past_key_values=None, x_t=x, timestep=torch.ones(1, T))


@pytest.mark.parametrize("kind", ["smolvla", "flow"])
def test_another_sampler_of_the_same_weights(kind: str) -> None:
    """Fifty Euler steps inside a loop of ten: the chunk of the fifty."""
    policy = KINDS[kind]()
    settings = "num_steps" if kind == "smolvla" else "num_integration_steps"
    fifty = KINDS[kind]()
    setattr(fifty.config, settings, 50)
    more = {"num_steps": 50} if kind == "smolvla" else {}
    own = fifty.predict_action_chunk(2, **more)
    with parallel(policy, {"method": "picard", "steps": 50, "tolerance": 1e-5}):
        torch.testing.assert_close(policy.predict_action_chunk(2), own, rtol=0, atol=1e-5)
    solver = Solver(Picard(), Tolerance(error=1e-5), SamplerConfig("flow_euler", 50))
    with parallel(policy, solver):
        torch.testing.assert_close(policy.predict_action_chunk(2), own, rtol=0, atol=1e-5)


def test_the_policys_generator_is_left_as_its_own_loop_leaves_it() -> None:
    for name in DITS:
        policy = KINDS[name]()
        policy.predict_action_chunk(2)
        left = torch.random.get_rng_state()
        with parallel(policy, {"method": "newton"}):  # it measures, with noise of its own
            policy.predict_action_chunk(2)
        assert torch.equal(torch.random.get_rng_state(), left)


def test_the_jacobian_is_measured_once() -> None:
    policy = VLAS["smolvla"]()
    with parallel(policy, {"method": "newton", "tolerance": 1e-3}) as rounds:
        policy.predict_action_chunk(1)
        first, policy.model.rows = policy.model.rows, 0
        policy.predict_action_chunk(1)
        assert policy.model.rows < first / 5
    with rounds:  # kept
        policy.model.rows = 0
        policy.predict_action_chunk(1)
        assert policy.model.rows < first / 5


@pytest.mark.parametrize("kind", DITS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.1), (torch.float64, 1e-6)])
def test_weights_of_another_type(kind: str, dtype: torch.dtype, limit: float) -> None:
    """The network sees its own type; what is between its calls is at least float32."""
    policy = KINDS[kind]()
    policy.noise_predictor.to(dtype)
    own = policy.predict_action_chunk(2)
    with parallel(policy, {"method": "picard", "rounds": 12}):
        found = policy.predict_action_chunk(2)
    assert found.dtype == own.dtype == dtype
    torch.testing.assert_close(found, own, rtol=0, atol=limit)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_from_inference_mode_serves_outside_of_it(kind: str) -> None:
    """As ``lerobot-eval`` and then a script: sampler and Jacobian are kept between them."""
    policy = KINDS[kind]()
    own = policy.predict_action_chunk(2)
    with parallel(policy, {"method": "newton", "tolerance": 1e-4}):
        with torch.inference_mode():
            policy.predict_action_chunk(2)
        torch.testing.assert_close(policy.predict_action_chunk(2), own, rtol=0, atol=1e-4)


@settings(max_examples=25)
@given(
    kind=st.sampled_from(list(VLAS)),
    steps=st.integers(1, 12),
    batch=st.integers(1, 5),
    method=st.sampled_from(["sequential", "picard", "anderson", "coarse", "newton"]),
    seed=st.integers(0, 1000),
)
def test_any_batch_and_number_of_steps(
    kind: str, steps: int, batch: int, method: str, seed: int
) -> None:
    setting = "num_steps" if kind == "smolvla" else "num_inference_steps"
    policy = VLAS[kind](**{setting: steps})
    own = policy.predict_action_chunk(batch, seed, num_steps=steps)
    said = {} if method == "sequential" else {"tolerance": 1e-4}
    with parallel(policy, {"method": method, **said}) as rounds:
        found = policy.predict_action_chunk(batch, seed, num_steps=steps)
    assert rounds.last is not None
    assert bool(rounds.last.certified.all())
    torch.testing.assert_close(found, own, rtol=0, atol=1e-4)
