"""The table of commands: what each is called, what it may be told, and what does it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

SETTINGS = "pcm_policy.cli.settings."


@dataclass(frozen=True)
class Command:
    """One command; what it needs is imported when it runs.

    Attributes:
        name: as typed after ``pcm-``; a subcommand after a space.
        settings: ``module:class`` in :mod:`pcm_policy.cli.settings`.
        run: ``module:function`` in :mod:`pcm_policy.cli`, which takes such an object.
        purpose: one line for ``--help``.
        examples: lines for ``--help``.
        words: settings that may be given without their names, in order.
        resumes: whether ``resume=true`` goes on with what was interrupted.
    """

    name: str
    settings: str
    run: str
    purpose: str
    examples: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    resumes: bool = False

    @property
    def kind(self) -> type[Any]:
        """The class of its settings."""
        found: type[Any] = _named(SETTINGS + self.settings)
        return found

    def __call__(self, settings: Any) -> Any:
        """Do what the command does."""
        run: Callable[[Any], Any] = _named("pcm_policy.cli." + self.run)
        return run(settings)


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "train",
            "train:TrainSettings",
            "train:train_main",
            "Train a diffusion policy from demonstrations.",
            (
                "pcm-train task=pusht dataset.path=released/pusht_demos output_dir=DIR",
                "pcm-train task=lift network=unet1d dataset.path=FILE.hdf5 output_dir=DIR",
                "pcm-train ... resume=true      continue a run that was cut off",
                "torchrun --nproc_per_node 2 -m pcm_policy.cli train ...      several processes",
            ),
            resumes=True,
        ),
        Command(
            "distill",
            "train:DistillSettings",
            "train:distill_main",
            "Distil a PCM head for a trained policy: one to three rounds instead of its steps.",
            ("pcm-distill policy=DIR/policy dataset.path=DEMOS.zarr output_dir=DIR2",),
            resumes=True,
        ),
        Command(
            "eval",
            "evaluate:EvalSettings",
            "eval:eval_main",
            "Roll a policy out in closed loop and report score, success and latency.",
            (
                "pcm-eval policy=released/pusht task=pusht episodes=50 output_dir=DIR",
                "pcm-eval solver=pcm solver.rounds=2 output_dir=DIR",
                "pcm-eval latency=steps latency.steps=4 control=realtime output_dir=DIR",
                "pcm-eval shard=0 shards=8 output_dir=DIR      an eighth of the episodes",
                "pcm-eval merge --help      put shards together",
                "pcm-eval compare --help      two results, episode by episode",
            ),
        ),
        Command(
            "eval merge",
            "evaluate:MergeSettings",
            "merge:merge_main",
            "Put the shards of an evaluation together: the result that one machine gives.",
            ("pcm-eval merge DIR", "pcm-eval merge DIR partial=true      while shards are missing"),
            words=("path",),
        ),
        Command(
            "eval compare",
            "evaluate:CompareSettings",
            "compare:compare_main",
            "Compare two evaluations episode by episode, with paired 95 % intervals.",
            ("pcm-eval compare DIR1 DIR2", "pcm-eval compare DIR1 DIR2 output=FILE.json"),
            words=("first", "second"),
        ),
        Command(
            "bench",
            "measure:BenchSettings",
            "bench:bench_main",
            "Time every solver on the same weights: rounds, evaluations, latency, error.",
            (
                "pcm-bench policy=released/pusht output_dir=DIR",
                "pcm-bench policy=DIR lerobot=PYTHON output_dir=DIR2    LeRobot's loops beside",
                "pcm-bench tune --help      choose a solver and a runtime for a target",
                "pcm-bench loop --help      the control loop in real time",
            ),
        ),
        Command(
            "bench tune",
            "measure:TuneSettings",
            "bench:tune_main",
            "Choose a solver and a runtime for a target on this device.",
            (
                "pcm-bench tune policy=released/pusht deadline_ms=5 output_dir=DIR",
                "pcm-bench tune policy=released/pusht error=0.01 modes=[eager,onnx] output_dir=DIR",
            ),
        ),
        Command(
            "bench certify",
            "measure:CertifySettings",
            "certify:certify_main",
            "Calibrate certificates: the safety factor of one sampler, into the policy's folder.",
            (
                "pcm-bench certify policy=DIR/policy output_dir=DIR2    the policy's own sampler",
                "pcm-bench certify policy=DIR/policy solver=ddpm output_dir=DIR3 resume=true",
            ),
            resumes=True,
        ),
        Command(
            "bench loop",
            "evaluate:LoopSettings",
            "loop:loop_main",
            "Run the control loop in real time: deadline misses, solve times, jitter.",
            ("pcm-bench loop policy=released/pusht control=realtime duration_s=60 output_dir=DIR",),
        ),
        Command(
            "data info",
            "data:InfoSettings",
            "data:info_main",
            "Say what demonstrations hold.",
            ("pcm-data info DEMOS.zarr",),
            words=("path",),
        ),
        Command(
            "data validate",
            "data:ValidateSettings",
            "data:validate_main",
            "Check demonstrations; exit code 1 where something is wrong with them.",
            ("pcm-data validate DEMOS.zarr task=pusht",),
            words=("path",),
        ),
        Command(
            "data generate",
            "data:GenerateSettings",
            "data:generate_main",
            "Let a task's scripted expert, or a policy, make demonstrations.",
            (
                "pcm-data generate demos.hdf5 task=metaworld/pick-place episodes=200",
                "pcm-data generate demos.zarr policy=released/pusht episodes=100",
            ),
            words=("path",),
        ),
        Command(
            "data convert",
            "data:ConvertSettings",
            "data:convert_main",
            "Convert demonstrations among zarr, robomimic, LeRobot and Minari.",
            ("pcm-data convert demos.zarr demos.hdf5",),
            words=("path", "target"),
        ),
        Command(
            "data manifest",
            "data:ManifestSettings",
            "data:manifest_main",
            "Make the entries of a folder the parts of one data set, with checksums.",
            ("pcm-data manifest FOLDER", "pcm-train dataset.path=FOLDER output_dir=DIR"),
            words=("path",),
        ),
        Command(
            "data verify",
            "data:VerifySettings",
            "data:verify_main",
            "Compare a data set of parts with its checksums; exit code 1 where they differ.",
            ("pcm-data verify FOLDER",),
            words=("path",),
        ),
        Command(
            "data absolute",
            "data:AbsoluteSettings",
            "data:absolute_main",
            "Add absolute actions to a robosuite file of delta actions.",
            ("pcm-data absolute low_dim.hdf5 abs.hdf5",),
            words=("path", "target"),
        ),
        Command(
            "serve",
            "evaluate:ServeSettings",
            "serve:run",
            "Serve a policy over WebSocket (msgpack); http://HOST:PORT has /healthz and /metrics.",
            (
                "pcm-serve policy=released/pusht",
                "PCM_TOKEN=secret pcm-serve serve.host=0.0.0.0 solver=pcm solver.rounds=2",
            ),
        ),
        Command(
            "import",
            "others:ImportSettings",
            "adopt:import_main",
            "Turn a checkpoint of another project into a policy folder.",
            ("pcm-import CHECKPOINT output_dir=DIR",),
            words=("source",),
        ),
        Command(
            "export",
            "others:ExportSettings",
            "export:export_main",
            "Write a fixed-round solve as packages that run without this one.",
            ("pcm-export policy=released/pusht solver=pcm solver.rounds=2 output_dir=DIR",),
        ),
        Command(
            "info",
            "others:VersionsSettings",
            "info:info_main",
            "Versions, device, and what is installed.",
            ("pcm-info",),
        ),
    )
}
