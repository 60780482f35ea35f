"""A run, from its configuration to its verdict: `prepare` checks and plans, `launch` computes, the rest judges."""

from pipeline.launch import RunFailed, check_engine, launch, read_summary
from pipeline.preparation import CannotRun, Plan, prepare
from pipeline.verdict import problems_of, warnings_of

__all__ = [
    "CannotRun",
    "Plan",
    "RunFailed",
    "check_engine",
    "launch",
    "prepare",
    "problems_of",
    "read_summary",
    "warnings_of",
]
