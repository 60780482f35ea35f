"""Judges a run that has ended: what did not hold, and what may not be what the user meant."""

from __future__ import annotations

from pipeline.preparation import Plan
from pipeline.summary import Summary


def problems_of(summary: Summary, plan: Plan) -> list[str]:
    """What did not hold, one sentence each; the exit code is 1 if there is any."""
    config, tolerance = plan.config, plan.model.exposed.tolerance
    problems = []
    if summary.failed_fraction > config.errors.max_fraction:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.failures.items()))
        problems.append(
            f"{summary.failed_fraction:.2%} of the images failed ({kinds}), more than errors.max_fraction = "
            f"{config.errors.max_fraction:g}; {config.output.path}/errors says which and why"
        )
    if not summary.images:
        problems.append(f"no image was explained; {config.output.path}/errors says why")
    complete = config.explain.biases == "all"
    if complete and summary.completeness and not summary.completeness["max"] <= tolerance:
        problems.append(
            f"the decomposition is not complete: the largest completeness_error is {summary.completeness['max']:.1e}, "
            f"more than {tolerance:g}; `fullgrad inspect` says which layers are to blame"
        )
    return problems


def warnings_of(summary: Summary, plan: Plan) -> list[str]:
    """What was asked for and may not be what was meant, one sentence each; the exit code stays 0."""
    config, tolerance = plan.config, plan.model.exposed.tolerance
    warnings = list(summary.warnings)
    if config.explain.biases == "explicit" and summary.completeness and summary.completeness["max"] > tolerance:
        warnings.append(
            "the terms do not add up to the logit: explain.biases = explicit leaves out those of activations, and the "
            f"largest completeness_error is {summary.completeness['max']:.1e}, where {tolerance:g} is complete; "
            "explain.biases = all has all terms"
        )
    return warnings
