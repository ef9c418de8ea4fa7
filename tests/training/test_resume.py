"""A run goes on as it would have gone, from what is whole, or says why it does not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.tensors import load_tensors, save_tensors
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.metrics import Metrics
from pcm_policy.training.sharing import Share
from pcm_policy.training.state import flat
from tests.training.small import assert_same, distill, forget, lines, steps, train

RUN = ["train.steps=6", "train.save_every=2", "train.keep=3"]


@pytest.fixture(scope="module")
def ended(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps and three checkpoints."""
    output = tmp_path_factory.mktemp("ended") / "run"
    train(demos, output, *RUN)
    return output


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(ended, tmp_path / "run"))


@pytest.fixture(scope="module")
def distilled(demos: Path, ended: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("distilled") / "run"
    distill(ended / "policy", demos, output, *RUN)
    return output


@pytest.fixture(scope="module")
def others(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other demonstrations under the same name."""
    buffer = open_replay(demos)
    episodes = [buffer.episode(i) for i in range(buffer.n_episodes)]
    path = tmp_path_factory.mktemp("others") / demos.name
    write_replay(path, [e | {"action": e["action"] + 1} for e in episodes])
    return path


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("dataset.val_seed=7", "dataset.val_seed=42, now 7"),
        ("dataset.val_fraction=0.5", "dataset.val_fraction=0.05, now 0.5"),
        ("dataset.episodes=4", "dataset.episodes=None, now 4"),
        ("dataset.symmetry=null", "dataset.symmetry='pcm_policy.envs.pusht:mirror', now None"),
        ("dataset.more=[{demos}]", r"dataset.more=\[\], now"),
        ("policy.prediction=sample", "policy.prediction='epsilon', now 'sample'"),
        ("policy.normalizer=gaussian", r"policy\.(clip|normalizer)="),
        ("policy.clip=null", "policy.clip=1.0, now None"),
        ("policy.schedule.train_steps=50", "policy.schedule.train_steps=100, now 50"),
        ("policy.schedule.name=linear", "policy.schedule.name="),
        ("network.options.width=24", "policy.network_options.width=16, now 24"),
        ("network.options.depth=2", "policy.network_options.depth=1, now 2"),
        ("task.action_steps=4", "policy.action_steps=8, now 4"),
        ("task.horizon=12", "policy.horizon=16, now 12"),
        ("task.prefix_steps=2", "policy.prefix_steps=0, now 2"),
        ("precision=bf16", "precision='no', now 'bf16'"),
        ("train.lr=0.5", "train.lr=0.001, now 0.5"),
        ("train.steps=8", "train.steps=6, now 8"),
        ("train.batch=4", "train.batch=8, now 4"),
        ("train.seed=1", "train.seed=0, now 1"),
        ("train.ema=0.5", "train.ema=0.9995, now 0.5"),
        ("train.clip_norm=null", "train.clip_norm=1.0, now None"),
        ("init={policy}", "init=None, now"),
    ],
)
def test_a_run_that_learns_something_else_is_not_continued(
    demos: Path, ended: Path, word: str, key: str
) -> None:
    if word.startswith("precision"):
        AcceleratorState._reset_state(True)  # type: ignore[no-untyped-call]
    before = (ended / "policy/model.safetensors").read_bytes()
    word = word.format(demos=demos, policy=ended / "policy")
    with pytest.raises(PcmError, match=f"was written with {key}.*choose another output_dir"):
        train(demos, ended, *RUN, word, "resume=true")
    assert (ended / "policy/model.safetensors").read_bytes() == before
    if word.startswith("precision"):
        AcceleratorState._reset_state(True)  # type: ignore[no-untyped-call]


def test_other_data_of_the_same_name_are_not_continued(
    demos: Path, ended: Path, distilled: Path, others: Path
) -> None:
    with pytest.raises(PcmError, match=r"was written with data.actions='\w+', now '\w+'"):
        train(others, ended, *RUN, "resume=true")
    with pytest.raises(PcmError, match=r"was written with data.actions="):
        distill(ended / "policy", others, distilled, *RUN, "resume=true")


def test_what_changes_no_weight_may_change(demos: Path, run: Path, ended: Path) -> None:
    forget(run, 4)
    moved = Path(shutil.copytree(demos, run / demos.name))
    more = ["train.log_every=1", "train.keep=1", "weights=float32", "resume=true"]
    train(moved, run, *RUN, *more)
    assert_same(run / "policy", ended / "policy")


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("distill.weight=row", "distill.weight='root', now 'row'"),
        ("distill.own=0.5", "distill.own=1.0, now 0.5"),
        ("distill.rounds=3", "policy.head.rounds=2, now 3"),
        ("distill.end_weight=0", "distill.end_weight=1.0, now 0"),
        ("distill.prefix=0.5", "distill.prefix=0.1, now 0.5"),
        ("distill.warm=0.5", "distill.warm=0.1, now 0.5"),
        ("distill.pool=24", "distill.pool=16, now 24"),
        ("distill.guess_steps=2", "distill.guess_steps=4, now 2"),
        ("distill.pools=3", "distill.pools=None, now 3"),
        ("distill.candidates=3", "init='', now '[0-9a-f]+'"),
        ("runtime.precision=bf16", "runtime='eager, float32', now 'eager, bf16'"),
        ("sampler.steps=8", "policy.head"),
        ("head.options.width=24", "policy.head.options.width=16, now 24"),
        ("head=lora", "policy.head"),
    ],
)
def test_a_distillation_of_something_else_is_not_continued(
    demos: Path, ended: Path, distilled: Path, word: str, key: str
) -> None:
    words = [*RUN, "resume=true", word]
    if "candidates" in word:  # its first guess tells where chunks change
        words.append(f"init={distilled}/policy")
    if word == "head=lora":  # it has no widths
        from pcm_policy.cli import train as cli_train
        from pcm_policy.cli.compose import compose

        given = [*RUN, "resume=true", word, f"policy={ended}/policy", f"dataset.path={demos}"]
        given += ["train.batch=8", "train.warmup=2", f"output_dir={distilled}", "device=cpu"]
        with pytest.raises(PcmError, match=key):
            cli_train.distill_main(compose("distill", given))
        return
    with pytest.raises(PcmError, match=f"was written with {key}"):
        distill(ended / "policy", demos, distilled, *words)


def test_another_base_is_not_distilled_further(
    demos: Path, distilled: Path, tmp_path: Path
) -> None:
    other = train(demos, tmp_path / "other", *RUN, "train.seed=5")
    with pytest.raises(PcmError, match="was written with base="):
        distill(other, demos, distilled, *RUN, "resume=true")


@pytest.mark.parametrize("pools", ["null", "1", "2 distill.candidates=3"])
@pytest.mark.parametrize("save_every", [3, 5, 7])
def test_a_distillation_resumed_inside_a_pool_is_the_uninterrupted_one(
    demos: Path, ended: Path, distilled: Path, tmp_path: Path, save_every: int, pools: str
) -> None:
    """Pools last 8 steps; their iterates follow the head as it was when they began."""
    words = ["train.steps=11", f"train.save_every={save_every}", "train.keep=9", "train.lr=0.01"]
    words += f"distill.pools={pools}".split()
    if "candidates" in pools:
        words.append(f"init={distilled}/policy")
    whole = distill(ended / "policy", demos, tmp_path / "run", *words)
    before = tmp_path / "before"
    shutil.copytree(whole, before)
    for step in steps(tmp_path / "run")[:-1]:
        forget(tmp_path / "run", step)
        distill(ended / "policy", demos, tmp_path / "run", *words, "resume=true")
        assert_same(whole, before)


def test_a_lower_rate_may_go_on(
    demos: Path, run: Path, ended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(run, 4)
    train(demos, run, *RUN, "train.lr=1e-9", "resume=true")
    assert "train.lr was 0.001 and is 1e-09 from here on" in capsys.readouterr().err
    lr = [line["lr"] for line in lines(run) if "lr" in line]
    assert lr[-1] < 1e-9 < lr[0]


def test_nothing_to_resume_is_said(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(demos, tmp_path / "run_1", *RUN, "resume=true")
    said = capsys.readouterr().err
    assert f"nothing to resume in {tmp_path / 'run_1'}: from step 0" in said
    assert "training in 1 process on cpu, mixed precision no" in said


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 16
    file.write_bytes(bytes(data))


def lose_an_entry(file: Path) -> None:
    tensors = load_tensors(file)
    tensors.pop(sorted(tensors)[0])
    save_tensors(tensors, file)


WHOLE = ("model", "ema", "optimizer")
DAMAGES = [(f"{name}.safetensors", d) for name in WHOLE for d in (cut, flip, lose_an_entry)]
DAMAGES += [(f"{name}.safetensors", d) for name in (*WHOLE, "objective") for d in (empty, remove)]
DAMAGES += [("state.json", d) for d in (cut, empty, remove)]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    demos: Path,
    run: Path,
    ended: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: object,
) -> None:
    newest = run / "checkpoints/step-00000006"
    damage(newest / name)  # type: ignore[operator]
    train(demos, run, *RUN, "resume=true")
    said = capsys.readouterr().err
    assert f"{newest / name}" in said
    assert "going on from step 4" in said
    assert_same(run / "policy", ended / "policy")
    assert steps(run) == [2, 4, 6]
    assert (run / "checkpoints/damaged-step-00000006").is_dir()


STATES = [
    *("null", "[]", "3", '"x"', "{}", "{", "\x00", "[" * 100_000, '{"format": 2}'),
    '{"format": 2, "step": "6", "files": {}, "made_from": {}}',
    '{"format": 2, "step": -6, "files": {}, "made_from": {}}',
    '{"format": 2, "step": 6, "files": [], "made_from": {}}',
    '{"format": 2, "step": 6, "files": {}, "made_from": 5}',
    '{"format": 1, "step": 6, "files": {}, "made_from": {}}',
    '{"step": 6, "config": {"lr": 0.001}}',
]


@pytest.mark.parametrize("text", STATES)
def test_a_state_that_is_not_what_it_should_be_is_one_line(
    demos: Path, run: Path, text: str
) -> None:
    for folder in (run / "checkpoints").iterdir():
        (folder / "state.json").write_text(text)
    with pytest.raises(PcmError, match=r"state.json is damaged .* no older checkpoint") as caught:
        train(demos, run, *RUN, "resume=true")
    assert "\n" not in str(caught.value)


def test_checkpoints_and_policies_of_weights_that_are_not_finite_are_not_written(
    demos: Path, tmp_path: Path
) -> None:
    """The loss is looked at every 100 steps, checkpoints are written every 2."""
    output, words = tmp_path / "run", [*RUN, "train.log_every=100"]
    train(demos, output, *words, "train.steps=4")
    shutil.rmtree(output)
    wild = [*words, "train.warmup=0", "train.clip_norm=null", "train.steps=200"]
    with pytest.raises(PcmError, match=r"not finite after step 2: lower train.lr .* from step 0"):
        train(demos, output, *wild, "train.lr=1e38")
    assert steps(output) == []
    assert not (output / "policy").exists()
    fine = train(demos, output, *words, "train.lr=0.001", "resume=true")  # as the message says
    assert all(bool(p.isfinite().all()) for p in DiffusionPolicy.from_pretrained(fine).parameters())


def test_the_last_good_checkpoint_survives_and_a_lower_rate_continues_from_it(
    demos: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update of the last step is not finite although its loss is."""
    forget(run, 4)
    rate = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, closure: None = None) -> None:
        rate(self, closure)
        for group in self.param_groups:
            group["params"][0].data.fill_(torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(PcmError, match="with resume=true training goes on from step 4"):
            train(demos, run, *RUN, "resume=true", "train.log_every=100")
    assert steps(run) == [2, 4]
    shutil.rmtree(run / "policy")
    train(demos, run, *RUN, "resume=true", "train.lr=0.0005")


def test_metrics_are_json_whatever_a_gradient_is(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.write(1, {"loss": 0.5, "grad_norm": float("inf"), "val": float("nan")})
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5, "grad_norm": None, "val": None}]


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"loss": 1}', '{"step": "x"}', "\udcff"])
def test_lines_that_are_none_are_dropped(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.jsonl"
    good = json.dumps({"step": 2, "loss": 1.0})
    file.write_text(f"{good}\n{text}\n{text}", errors="surrogateescape")
    Metrics(file, 2)
    assert lines(tmp_path) == [{"step": 2, "loss": 1.0}]


def test_metrics_that_cannot_be_written_end_no_training(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if self.name == "metrics.jsonl" and "a" in mode:
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    folder = train(demos, tmp_path / "run", *RUN)
    assert folder.is_dir()
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_metrics_that_are_gone_come_back_with_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    metrics = Metrics(output / "metrics.jsonl", 0)
    shutil.rmtree(output)
    for step in (1, 2):
        metrics.write(step, {"loss": 1.0})
    assert capsys.readouterr().err.count("training goes on without its lines") == 1
    output.mkdir()  # as the next checkpoint does
    metrics.write(3, {"loss": 1.0})
    assert lines(output) == [{"step": 3, "loss": 1.0}]


def test_a_run_whose_folder_is_removed_under_it_ends_well(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, output = Cloning.loss, tmp_path / "run"

    def remove_at_three(
        self: Cloning, module: torch.nn.Module, step: int, share: Share
    ) -> torch.Tensor:
        if step == 3:
            shutil.rmtree(output)
        return loss(self, module, step, share)

    monkeypatch.setattr(Cloning, "loss", remove_at_three)
    policy = train(demos, output, *RUN)
    assert DiffusionPolicy.from_pretrained(policy)
    assert [line["step"] for line in lines(output)] == [6, 6]


def test_metrics_that_cannot_be_replaced_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(PcmError, match=r"metrics.jsonl cannot be read"):
        Metrics(tmp_path / "metrics.jsonl", 0)


def test_settings_are_flat_and_as_json_has_them() -> None:
    nested = {"a": {"b": {"c": (1, 2)}, "d": {}}, "e": None, "f": np.float64(0.5).item()}
    assert flat(nested) == {"a.b.c": [1, 2], "a.d": {}, "e": None, "f": 0.5}
