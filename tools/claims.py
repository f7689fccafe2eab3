"""Verdicts on the paper's claims: criteria that were written down beforehand, applied to recorded results.

The criteria of sections 3 and 4 stand in tests/claims.yaml; its head explains the fields. A verdict follows from
criterion and result alone, so nobody chooses it afterwards.

Axes: none; a result is {value, low, high}.
"""

import math
from collections.abc import Mapping

from taste_min.errors import TasteError

# from worst to best; the verdict of a claim is the worst of its criteria
NOT_TESTABLE, NOT_REPRODUCED, SAME_DIRECTION, REPRODUCED = VERDICTS = (
    "not testable",
    "not reproduced",
    "same direction",
    "reproduced",
)
COMPARISONS = (">", ">=", "<", "<=", "within")


def _holds(comparison: str, value: float, criterion: Mapping) -> bool:
    if comparison == "within":
        return criterion["low"] <= value <= criterion["high"]
    threshold = criterion["threshold"]
    return {
        ">": value > threshold,
        ">=": value >= threshold,
        "<": value < threshold,
        "<=": value <= threshold,
    }[comparison]


def check_criterion(criterion: Mapping) -> None:
    """Raises TasteError when a criterion cannot be applied, naming what is wrong with it."""
    name, comparison = criterion.get("metric", "a criterion"), criterion.get("comparison")
    if "/" not in str(name):
        raise TasteError(f"{name} needs a metric of the form FILE/KEY.")
    if comparison not in COMPARISONS:
        raise TasteError(f"{name} has the comparison '{comparison}'; choose from {', '.join(COMPARISONS)}.")
    needed = ("low", "high") if comparison == "within" else ("threshold",)
    if not all(isinstance(criterion.get(key), (int, float)) for key in needed):
        raise TasteError(f"{name} needs numbers for {' and '.join(needed)}.")
    if criterion.get("interval") not in ("whole", "point"):
        raise TasteError(f"{name} needs interval: whole or point.")
    if "neutral" in criterion and comparison == "within":
        raise TasteError(f"{name} has a neutral value, but being within bounds has no direction.")


def verdict(criterion: Mapping, result: Mapping | None) -> str:
    """Judge one result {value, low, high} by one criterion.

    reproduced: value, and with `interval: whole` both ends, satisfy the comparison. same direction: they do not, but
    the value is on the claimed side of `neutral`, or satisfies the comparison without its interval. not reproduced:
    neither. not testable: there is no result, its value is not a number, or `whole` is asked and there is no interval.
    Raises TasteError for a criterion that cannot be applied.
    """
    check_criterion(criterion)
    value = None if result is None else result.get("value")
    if value is None or not math.isfinite(value):
        return NOT_TESTABLE
    comparison, numbers = criterion["comparison"], [value]
    if criterion["interval"] == "whole":
        ends = [result.get("low"), result.get("high")]
        if any(end is None or not math.isfinite(end) for end in ends):
            return NOT_TESTABLE
        numbers += ends
    if all(_holds(comparison, number, criterion) for number in numbers):
        return REPRODUCED
    if _holds(comparison, value, criterion):
        return SAME_DIRECTION
    neutral = criterion.get("neutral")
    if neutral is not None and (value > neutral if comparison.startswith(">") else value < neutral):
        return SAME_DIRECTION
    return NOT_REPRODUCED


def find(metric: str, results: Mapping[str, Mapping]) -> Mapping | None:
    """Entry KEY of results[FILE] for the metric FILE/KEY, None when it was not measured. A bare number is a value."""
    file, key = metric.split("/", 1)
    found = results.get(file, {}).get(key)
    return {"value": found} if isinstance(found, (int, float)) else found


def judge_claim(claim: Mapping, results: Mapping[str, Mapping]) -> dict:
    """Verdict of a claim on all results {file: {key: result}}, with that of each criterion.

    Returns {id, verdict, criteria: [{metric, verdict, result}], passing_mutants}. A claim marked `testable: false` is
    not testable; otherwise the worst verdict counts. passing_mutants: broken variants that satisfy a criterion.
    """
    parts, passing = [], []
    for criterion in claim.get("criteria", []):
        result = find(criterion["metric"], results)
        parts.append({"metric": criterion["metric"], "verdict": verdict(criterion, result), "result": result})
        passing += [m for m in criterion.get("mutants", []) if verdict(criterion, find(m, results)) == REPRODUCED]
    testable = claim.get("testable", True) and parts
    worst = min((part["verdict"] for part in parts), key=VERDICTS.index) if testable else NOT_TESTABLE
    return {"id": claim["id"], "verdict": worst, "criteria": parts, "passing_mutants": passing}
