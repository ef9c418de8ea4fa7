"""The routes of ``benchmarks.routes.route``: what they differ in, and the commands of each."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SOLVERS: Mapping[str, tuple[str, ...]] = {
    "DDIM-16, the base": ("solver=ddim",),
    "PCM, 1 round": ("solver=pcm", "solver.rounds=1"),
    "PCM, 2 rounds": ("solver=pcm", "solver.rounds=2"),
    "PCM, 3 rounds": ("solver=pcm", "solver.rounds=3"),
}
FEW = ("solver=dpmpp", "solver.steps=4")
"""What acts in the rollouts, near the base's way but not always on it."""
BASELINE = "robomimic's own BC"
BASELINE_EPISODES = 100
BC = "benchmarks.routes.robomimic_bc"
AGAIN = "benchmarks.adroit"
MODULES = (BC, AGAIN)
"""Commands that are modules."""


@dataclass(frozen=True)
class Route:
    """What differs from task to task.

    Attributes:
        task: its name.
        steps: of training.
        max_steps: of an episode in evaluation; None for the environment's own limit.
        train: further settings of training.
        generate: further settings of the demonstrations.
        episodes: demonstrations.
        rollouts: episodes of the base, good and bad, that the head is distilled on as well; 0 for
            none.
        distil: steps of distillation.
        evaluated: episodes of evaluation.
        keys: what robomimic's own policy observes; empty for none.
        head: further settings of distillation.
        given: file of people's demonstrations, in the folder, which are played again in place of
            an expert's.
    """

    task: str
    steps: int
    max_steps: int | None
    train: tuple[str, ...] = ("train.batch=128", "train.warmup=200", "train.ema=0.999")
    generate: tuple[str, ...] = ("workers=2",)
    episodes: int = 200
    rollouts: int = 50
    distil: int = 2500
    evaluated: int = 100
    keys: str = "object,robot0_eef_pos,robot0_eef_quat,robot0_gripper_qpos"
    head: tuple[str, ...] = ()
    given: str | None = None


_SHORT = ("train.batch=128", "train.warmup=200", "train.ema=0.995")
_TRANSFORMER = ("network=transformer", "train.lr=0.0003", *_SHORT)
_META = ("train.ema=0.999",)
_DOOR = ("policy.prediction=sample", "train.batch=64", "train.warmup=200", "train.ema=0.995")
_SEEING = ("policy.prediction=sample", "noises=8", "train.batch=32", "train.lr=0.0006")
_SEEING += ("train.warmup=100", "train.ema=0.995", "precision=bf16")
_ALOHA = ("policy.prediction=sample", "train.batch=128", "train.warmup=200", "train.ema=0.995")
ROUTES: Mapping[str, Route] = {
    "lift": Route("lift", 4000, 100, _SHORT),
    "lift-transformer": Route("lift", 4000, 100, _TRANSFORMER, keys=""),
    "lift_image": Route(
        "lift_image",
        2200,
        100,
        _SEEING,
        (),
        episodes=100,
        rollouts=0,
        distil=1000,
        evaluated=50,
        keys="",
    ),
    "can": Route("can", 24000, 250, evaluated=200),
    "square": Route("square", 24000, 300, evaluated=200),
    **{
        name: Route(
            f"metaworld/{name}", 6000, None, _META, ("max_steps=300",), keys="proprio,object,goal"
        )
        for name in ("pick-place", "peg-insert-side")
    },
    "aloha_transfer_cube": Route("aloha_transfer_cube", 5000, None, _ALOHA, keys=""),
    "adroit_door": Route(
        "adroit_door",
        5000,
        None,
        (*_DOOR, "dataset.val_fraction=0"),
        distil=1000,
        keys="",
        head=("train.batch=64", "distill.pool=1000", "distill.guess_batch=128"),
        given="adroit_door_human.hdf5",
    ),
}


def commands(name: str, folder: Path, ray: str | None = None) -> dict[str, list[str]]:
    """Return the commands of a route, in their order, by what they are for.

    Args:
        name: of the route.
        folder: gets what they write.
        ray: address of a Ray cluster that runs the episodes, ``local`` for this machine's cores.
    """
    route = ROUTES[name]
    spread = [] if ray is None else ["launcher=ray"]
    spread += [] if ray in (None, "local") else [f"ray.address={ray}"]
    task, demos = f"task={route.task}", folder / f"{route.task.split('/')[-1]}.hdf5"
    base, pcm = folder / name, folder / f"{name}_pcm"
    visited = folder / f"{name}_rollouts.zarr"
    data, threads = f"dataset.path={demos}", "threads=1"
    here = [word for word in route.generate if ray is None or not word.startswith("workers=")]
    generate = ["generate", task, f"episodes={route.episodes}", *here, *spread]
    train = [f"train.steps={route.steps}", *route.train, threads]
    limit = [] if route.max_steps is None else [f"max_steps={route.max_steps}"]
    limit += ["num_envs=5", "solve_batch=5", threads, *spread]
    rollouts = [f"policy={base}/policy", f"episodes={route.rollouts}", "seed=1000000"]
    rollouts += ["failures=true", *FEW, *limit, f"output={visited}"]
    more = [f"dataset.more=[{visited}]"] if route.rollouts else []
    distil = [f"policy={base}/policy", data, *more, f"output_dir={pcm}"]
    distil += [f"train.steps={route.distil}", *route.head, threads]
    found = {
        "generate": ["data", *generate, f"output={demos}"]
        if route.given is None
        else [AGAIN, str(folder / route.given), "--again", str(demos)],
        "train": ["train", task, data, f"output_dir={base}", *train],
        **({"rollouts": ["data", "generate", task, *rollouts]} if route.rollouts else {}),
        "distil": ["distill", task, *distil],
    }
    limit += [f"episodes={route.evaluated}", "seed=100000", "overwrite=true"]  # of one cut off
    for number, (solver, words) in enumerate(SOLVERS.items()):
        chosen = [f"policy={pcm}/policy", *words, *limit]
        found[solver] = ["eval", task, *chosen, f"output_dir={folder}/{name}_eval{number}"]
    if route.keys:
        bc, epochs = folder / f"{name}_bc", str(max(1, route.steps // 100))
        found["train BC"] = [BC, str(demos), str(bc), "--keys", route.keys, "--epochs", epochs]
        fewer = [word for word in limit if not word.startswith("episodes=")]
        chosen = [f"policy=robomimic:{bc}/model.pth", *fewer]
        chosen += [f"episodes={min(route.evaluated, BASELINE_EPISODES)}"]
        found[BASELINE] = ["eval", task, *chosen, f"output_dir={folder}/{name}_eval_bc"]
    return found


def shell(words: Sequence[str]) -> str:
    """Return a command as it is typed."""
    first = ["python", "-m", words[0]] if words[0] in MODULES else [f"pcm-{words[0]}"]
    return shlex.join([*first, *words[1:]])
