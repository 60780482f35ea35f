"""Judges a run that has ended: what did not hold, and what may not be what the user meant."""

from __future__ import annotations

import dataclasses

from pipeline.label_doubts import NO_BETTER
from pipeline.preparation import Plan
from pipeline.scale_doubts import better_scale
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


def with_doubts(plan: Plan, summary: Summary) -> Summary:
    """The summary with the plan's doubts, and with a scale of pixels that gives far more correct predictions.

    A doubt takes the place of the warning that the accuracy is no better than guessing, because it is the cause.
    """
    found = better_scale(plan, summary)
    doubts = [*plan.doubts, *([found] if found else [])]
    others = [each for each in summary.warnings if each not in doubts and not (doubts and NO_BETTER in each)]
    return dataclasses.replace(summary, warnings=[*doubts, *others])


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
