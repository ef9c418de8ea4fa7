"""What every command may be told: one frozen dataclass a command, checked before any work.

The classes hold every default; the YAML files in ``configs/`` hold named choices (tasks, networks,
solvers ...) with what differs from them.
"""
