"""How fast everything is: book/speed.md, from what `taste-min bench` and tools/fast_agreement.py recorded.

    taste-min bench --preset paper --json > results/full/bench_paper.json
    python tools/fast_agreement.py CORPUS
    python tools/speed_page.py

No number is typed by hand; what was not measured has no row.
"""

import json

from claims_pages import ROOT, csv_table

RESULTS, PAGE = ROOT / "results" / "full", ROOT / "book" / "speed.md"
TARGETS = {  # (stage, whether numerics may differ) -> how many times as fast, decided beforehand
    ("unit decoder", True): 2.5,
    ("flow", True): 3.0,
    ("whole decoder", True): 2.5,
    ("whole decoder", False): 1.3,
}
TOLERANCE = 0.1  # dB that a mel spectrogram may be farther from the exact solution
VARIANTS = {
    "plain": "float32, ten steps",
    "int8": "int8",
    "int8_6_steps": "int8, 6 steps",
    "int8_5_steps": "int8, 5 steps",
    "int8_4_steps": "int8, 4 steps",
}


def read(name: str) -> dict:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def interval(entry: dict, scale: float = 1, digits: int = 3) -> str:
    value, low, high = (f"{scale * entry[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def stages(bench: dict) -> str:
    rows = [
        [
            row["stage"],
            f"{row['seconds']:.3f}",
            "" if row["real_time_factor"] is None else f"{row['real_time_factor']:.2f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['peak_memory_mb']:.0f}",
            f"{row['floor_seconds']:.3f}",
            row["limit"],
            f"{row['distance']:.1f}",
        ]
        for row in bench["stages"]
    ]
    header = ["stage", "s", "× real time", "tokens/s", "MB", "floor (s)", "limit", "distance"]
    return csv_table(f"Every stage at the paper's sizes, {bench['speech_seconds']:g} s of speech", header, rows)


def against(bench: dict) -> str:
    rows = []
    for row in bench["against_the_original"]:
        target = TARGETS.get((row["stage"], row["variant"] != "float32"))
        reached = "" if target is None else f"{target:g}: {'reached' if row['ratio'] >= target else 'not reached'}"
        difference = "" if row["difference"] is None else f"{row['difference']:.1e}"
        rows.append([row["stage"], row["variant"], f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", reached, difference])
    header = ["stage", "ours", "s", "times as fast", "target", "greatest difference"]
    return csv_table("Ours beside the original's algorithm, same weights, cores and run", header, rows)


def indistinguishable(record: dict, name: str) -> bool:
    """Whether a variant is as near to the exact solution as the plain one, and words are no worse as far as we know."""
    farther = record[name]["mel_db"]["value"] - record["plain"]["mel_db"]["value"]
    return farther <= TOLERANCE and record[name]["wer_minus_plain"]["low"] <= 0


def agreement(record: dict) -> str:
    rows = []
    for name in filter(record.__contains__, VARIANTS):
        entry = record[name]
        rows.append([VARIANTS[name], interval(entry["same_likeliest_unit"], 100, 1), interval(entry["mel_db"], 1, 2)])
        rows[-1] += [interval(entry["wer"], 100, 1), interval(entry["wer_minus_plain"], 100, 1)]
        rows[-1].append("" if name == "plain" else "yes" if indistinguishable(record, name) else "no")
    header = ["variant", "same likeliest unit (%)", "mel (dB)", "WER (%)", "WER minus plain (points)", "as good"]
    n = record["run"]["n_recordings"]
    return csv_table(
        f"What it changes on trained weights: mini preset, {n} dev recordings, 95 % intervals", header, rows
    )


def page() -> str:
    bench, record = read("bench_paper"), read("fast_agreement")
    ceiling = bench["ceilings"]
    parts = [
        "# How fast it is",
        "The paper's sizes with random weights (time does not depend on them), so that everybody can repeat it: "
        "`taste-min bench --preset paper`.",
        f"Measured on: {bench['device']}, {bench['threads']} threads, {ceiling['flops'] / 1e9:.0f} · 10⁹ float32 "
        f"operations per second in a large matrix product, {ceiling['bytes_per_second'] / 1e9:.1f} GB/s of reading, "
        f"the fastest of {bench['repeats']} runs, {bench['load'][0]:.1f} to {bench['load'][1]:.1f} "
        f"processes that wanted a core, commit `{bench['commit']}`.",
        "The **floor** of a stage is what its multiplications, or the bytes of its weights, take at these rates; the "
        "**distance** is time over floor. MB is the peak of the process while the stage ran.",
        stages(bench),
        "The original decodes with an algorithm that we wrote down plainly in `bench_original.py`: keys and values are "
        "joined anew and positions projected again at every unit, guidance takes two passes, weights are normalised at "
        "every call. It runs in the same process as ours. *float32* computes the same numbers; *int8* stores linear "
        "layers as 8-bit integers; *steps* solves the flow in fewer steps of the second order.",
        against(bench),
    ]
    if record:
        parts += [
            "Is the result still the same? The likeliest unit is compared with the true past given; the mel "
            f"spectrogram with a solution in {record['run']['exact_steps']} steps, from the same units and the same "
            "noise; words are counted by the judge. A variant is called as good as the plain one when its "
            f"spectrogram is at most {TOLERANCE:g} dB farther from that solution than the original's ten steps, and "
            "the interval of the difference in word errors does not lie above zero.",
            agreement(record),
        ]
    parts.append(
        "A GPU was never at hand; the command prints the same table there. How long training at full size takes is "
        "computed in [chapter 12](../notebooks/12_released_checkpoint.ipynb)."
    )
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
