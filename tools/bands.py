"""Is a recorded number where it should be, and would a broken model's number be somewhere else?

`tests/expected.yaml` holds, per notebook and metric, one band:

    kind: exact    value: 1500                      equal
    kind: close    value: 2.31  rtol: 0.05          within 5 % of the value
    kind: range    min: 0.3     max: 1.0            either end may be left out
    kind: trend    less_than: 01.other  by: 5       or greater_than; another metric (NN.name), with a margin
    kind: report   why: depends on the machine      no band

and for all but `report` a `mutant`: the value (or several) that a broken variant gives, as a number with `why`, or as
the name of a recorded control. A mutant inside the band is an error: such a band cannot tell right from wrong.
A metric that another band refers to needs no band of its own.
"""

import math

FIELDS = {
    "exact": {"value"},
    "close": {"value", "rtol"},
    "range": {"min", "max"},
    "trend": {"less_than", "greater_than", "by"},
    "report": set(),
}
COMMON = {"kind", "mutant", "why"}


def flatten(results: dict[str, dict]) -> dict[str, float]:
    """Results by notebook -> {"NN.metric": value}."""
    return {
        f"{name[:2]}.{metric}": entry["value"]
        for name, result in results.items()
        for metric, entry in result["metrics"].items()
    }


def inside(band: dict, value: float, recorded: dict[str, float]) -> bool:
    """Does `value` lie in `band`? `recorded` holds the metrics that trends refer to."""
    match band["kind"]:
        case "exact":
            return value == band["value"]
        case "close":
            return math.isclose(value, band["value"], rel_tol=band["rtol"])
        case "range":
            return band.get("min", -math.inf) <= value <= band.get("max", math.inf)
        case "trend":
            margin = band.get("by", 0)
            if "less_than" in band:
                return value < recorded[band["less_than"]] - margin
            return value > recorded[band["greater_than"]] + margin
        case "report":
            return True


def malformed(band: dict) -> str:
    """What is wrong with the entry itself, or an empty string."""
    kind = band.get("kind")
    if kind not in FIELDS:
        return f"kind must be one of {', '.join(FIELDS)}"
    unknown = set(band) - FIELDS[kind] - COMMON
    if unknown:
        return f"fields that {kind} does not have: {', '.join(sorted(unknown))}"
    if kind in ("exact", "close") and not FIELDS[kind] <= set(band):
        return f"{kind} needs {', '.join(sorted(FIELDS[kind]))}"
    if kind == "range" and not {"min", "max"} & set(band):
        return "range needs min, max or both"
    if kind == "trend" and len({"less_than", "greater_than"} & set(band)) != 1:
        return "trend needs less_than or greater_than"
    if kind == "report":
        return "" if band.get("why") and "mutant" not in band else "report needs why, and has no mutant"
    if "mutant" not in band:
        return "a band needs a mutant: what a broken variant gives"
    if any(not isinstance(mutant, str) for mutant in mutants(band)) and not band.get("why"):
        return "a mutant that is a number needs why"
    return ""


def mutants(band: dict) -> list[float | str]:
    given = band.get("mutant", [])
    return given if isinstance(given, list) else [given]


def references(band: dict) -> set[str]:
    """Names of other metrics that the band uses."""
    named = {band.get("less_than"), band.get("greater_than"), *(m for m in mutants(band) if isinstance(m, str))}
    return {name for name in named if name is not None}


def problems(expected: dict[str, dict[str, dict]], results: dict[str, dict]) -> list[str]:
    """Every reason why the recorded results do not satisfy the expected bands; empty when all is well."""
    recorded = flatten(results)
    found = []
    covered = set()
    for notebook, entries in expected.items():
        for metric, band in entries.items():
            key = f"{notebook[:2]}.{metric}"
            covered.add(key)
            wrong = malformed(band)
            missing = sorted(({key} | references(band)) - set(recorded))
            if wrong:
                found.append(f"{key}: {wrong}")
            elif notebook not in results:
                found.append(f"{key}: there is no result of {notebook}")
            elif missing:
                found.append(f"{key}: not recorded: {', '.join(missing)}")
            else:
                covered |= references(band)
                if not inside(band, recorded[key], recorded):
                    found.append(f"{key} = {recorded[key]:g} is outside its band {band}")
                for mutant in mutants(band):
                    value = recorded[mutant] if isinstance(mutant, str) else mutant
                    if inside(band, value, recorded):
                        found.append(f"{key}: the mutant {mutant} = {value:g} fits into the band {band}")
    found += [f"{key}: recorded, but not in expected.yaml" for key in recorded if key not in covered]
    return found
