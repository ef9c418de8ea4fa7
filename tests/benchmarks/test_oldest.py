"""The oldest versions that are tried are those that pyproject.toml allows."""

from benchmarks.oldest import FILE, oldest


def test_the_constraints_are_the_lower_bounds() -> None:
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    assert lines == oldest()
    assert "zarr==3.1.5" in lines
    assert not any(line.endswith("==None") for line in lines)
