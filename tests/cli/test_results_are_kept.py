"""A command does not replace the result of another run, and says so before any work."""

from pathlib import Path

import pytest

from pcm_policy.cli.bench import bench_main, tune_main
from pcm_policy.cli.compose import compose
from pcm_policy.cli.eval import eval_main
from pcm_policy.cli.export import export_main
from pcm_policy.cli.loop import loop_main
from pcm_policy.errors import PcmError

COMMANDS = {
    "export": (export_main, "export.json", "calls=1"),
    "eval": (eval_main, "eval.json", "task=pusht"),
    "bench": (bench_main, "bench.json", "calls=1"),
    "bench tune": (tune_main, "tune.json", "error=0.1"),
    "bench loop": (loop_main, "loop.json", "task=pusht"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_result_is_replaced_only_on_request(name: str, tmp_path: Path) -> None:
    main, file, word = COMMANDS[name]
    (tmp_path / file).write_text("of an earlier run")
    words = [f"output_dir={tmp_path}", "policy=no/such/policy", word]
    with pytest.raises(PcmError, match=f"{file} is there already.*overwrite=true"):
        main(compose(name, words))
    assert (tmp_path / file).read_text() == "of an earlier run"
    with pytest.raises(PcmError, match="no/such/policy"):  # the next thing that is wrong
        main(compose(name, [*words, "overwrite=true"]))
