"""The claims and what became of them: results/claims.json and two pages of the book, from what was recorded.

    python tools/claims_pages.py

Reads tests/claims.yaml (criteria, written beforehand), tests/paper_tables.yaml (the paper's numbers) and everything in
results/full; writes results/claims.json, book/claims.md, book/paper_vs_ours.md and the copy of the experiments that
chapters draw (chapter_records.py). No number is typed by hand, and what was not measured says so. The differences that
claims name under `reconstruction` and for unseen speech are those of results/full/bars.
"""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import book_files
import chapter_records
import yaml
from claims import NOT_TESTABLE, find, judge_claim, verdict

ROOT = book_files.ROOT
RESULTS = chapter_records.RESULTS
NOT_MEASURED = "not measured yet"
LEAST_WORDS = 100  # swapped words, as tests/claims.yaml asks of the editing experiment; with fewer there is no verdict
GROUPS = {"seen": "seen voices", "unseen": "held-out voice", "human": "human clips"}
CHAPTERS = {  # FILE of a metric -> page that explains the measurement
    "ablation": "notebooks/05_decoder_training",
    "layer_sweep": "notebooks/02_aggregator_attention",
    "attention": "notebooks/02_aggregator_attention",
    "editing": "notebooks/08_editing",
    "probes": "notebooks/03_rvq_from_scratch",
    "reconstruction": "notebooks/07_reconstruction",
    "robustness": "notebooks/07_reconstruction",
    "taslm": "notebooks/11_what_it_learned",
    "continuation": "notebooks/11_what_it_learned",
    "evaluator_validation": "book/evaluator",
}
WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}


def load_results(folder: Path = RESULTS) -> dict[str, dict]:
    """Everything that was recorded, by FILE."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    if results.get("editing", {}).get("duration_transfer_swapped", {"words": 0})["words"] < LEAST_WORDS:
        results = {name: found for name, found in results.items() if not name.startswith("editing")}
    bars = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "bars").glob("*.json")}
    results["bars"] = bars
    duration, f0 = "duration_consistency_50ms", "word_f0_correlation"
    robustness = results.get("robustness", {})
    entries = {  # FILE/KEY -> (file of bars, its key)
        f"reconstruction/mini_minus_text_only_{duration}": ("seen-mini-minus-text-only", duration),
        f"reconstruction/mini_minus_text_only_{f0}": ("seen-mini-minus-text-only", f0),
        "reconstruction/mini_wer_above_original": ("seen-mini", "wer_above_original"),
        "reconstruction/mini_bits_per_second": ("seen-mini", "bits_per_second"),
        f"robustness/held_out_voice_mini_minus_text_only_{duration}": ("unseen-mini-minus-text-only", duration),
        f"robustness/human_mini_minus_text_only_{f0}": ("human-mini-minus-text-only", f0),
    }
    for name, (file, key) in entries.items():
        if key in bars.get(file, {}):
            where, entry = name.split("/")
            results.setdefault(where, {})[entry] = bars[file][key]
    if "wer" in (difference := bars.get("seen-mini-minus-text-only", {})):
        value, low, high = (difference["wer"][key] for key in ("value", "low", "high"))
        ends = {"low": None, "high": None} if low is None else {"low": -high, "high": -low}
        results["reconstruction"]["text_only_minus_mini_wer"] = {"value": -value} | ends
    if "words_per_second" in results.get("continuation", {}):
        results.setdefault("taslm", {})["words_per_second"] = results["continuation"]["words_per_second"]
    if (key := f"shuffled_minus_text_only_{duration}") in robustness:
        results.setdefault("reconstruction", {})[key] = robustness[key]
    return results


def source(metric: str) -> str:
    """File that a metric derives from."""
    file, key = metric.split("/")
    file = "continuation" if key == "words_per_second" else file
    of_bars = file == "reconstruction" or key.startswith(("held_out_voice", "human"))
    return f"results/full/{'bars' if of_bars else file + '.json'}"


def judge(claims: list[dict], results: Mapping[str, Mapping]) -> list[dict]:
    """What results/claims.json holds: every claim with verdict, criteria, results and broken variants."""
    judged = []
    for claim in claims:
        found = judge_claim(claim, results)
        entry = {key: claim[key] for key in ("id", "claim", "section", "paper")} | {"verdict": found["verdict"]}
        if not claim.get("testable", True):
            judged.append(entry | {"why": claim["why"], "criteria": []})
            continue
        criteria = []
        for criterion, part in zip(claim["criteria"], found["criteria"], strict=True):
            mutants = {
                m: (find(m, results), verdict(criterion, find(m, results))) for m in criterion.get("mutants", [])
            }
            row = {"metric": criterion["metric"], "criterion": wording(criterion), "verdict": part["verdict"]}
            row |= {"result": numbers(part["result"]), "source": source(criterion["metric"])}
            row["mutants"] = [{"metric": m, "result": numbers(r), "verdict": v} for m, (r, v) in mutants.items()]
            criteria.append(row)
        missing = [row["metric"] for row in criteria if row["verdict"] == NOT_TESTABLE]
        entry |= {"why": NOT_MEASURED} if missing else {}
        judged.append(entry | {"missing": missing, "passing_mutants": found["passing_mutants"], "criteria": criteria})
    return judged


def numbers(result: Mapping | None) -> dict | None:
    """Value and interval only."""
    return result and {key: result.get(key) for key in ("value", "low", "high")}


def wording(criterion: Mapping) -> str:
    """A criterion in words."""
    end = " (whole interval)" if criterion["interval"] == "whole" else ""
    if criterion["comparison"] == "within":
        return f"{criterion['low']} to {criterion['high']}{end}"
    return f"{WORDS[criterion['comparison']]} {criterion['threshold']}{end}"


def shown(result: Mapping | None) -> str:
    """A result as text with two or three digits."""
    if result is None or result["value"] is None:
        return NOT_MEASURED
    digits = 0 if abs(result["value"]) >= 20 else 3 if abs(result["value"]) < 0.1 else 2

    def number(x: float) -> str:
        text = f"{x:.{digits}f}"
        return text if float(text) else text.lstrip("-")

    value = number(result["value"])
    return value if result.get("low") is None else f"{value} ({number(result['low'])} to {number(result['high'])})"


def csv_table(caption: str, header: list[str], rows: list[list[str]]) -> str:
    """A MyST table; cells may hold links."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return f"```{{csv-table}} {caption}\n:header: {', '.join(header)}\n\n{text.getvalue()}```\n"


def status(entry: Mapping) -> str:
    """Verdict as the page shows it: what nobody measured is no verdict."""
    return NOT_MEASURED if entry.get("missing") else entry["verdict"]


def paper_says(paper: Mapping) -> str:
    """The paper's numbers in one line."""
    values = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in paper.items() if key != "what")
    return f"{paper['what']}: {values}" if values else paper["what"]


def chapter(entry: Mapping) -> str:
    """Link from a page of book/ to the one that explains how the first criterion was measured, where there is one."""
    page = CHAPTERS.get(entry["criteria"][0]["metric"].split("/")[0]) if entry["criteria"] else None
    path = page and book_files.source_path(page)
    if not path:
        return ""
    return f"[{path.stem.replace('_', ' ')}]({os.path.relpath(path, ROOT / 'book')})"


def claims_page(judged: list[dict]) -> str:
    """book/claims.md."""
    counts = {name: sum(status(entry) == name for entry in judged) for name in dict.fromkeys(map(status, judged))}
    repository = book_files.config()["repository"]
    rows = [
        [f"[{entry['claim'].rstrip('.')}](#{entry['id']})", entry["section"], f"**{status(entry)}**", chapter(entry)]
        for entry in judged
    ]
    parts = [
        "# Claims\n\nWhat the paper claims, and what became of it here. Every criterion was written before the "
        "experiment was run, in `tests/claims.yaml`; the verdict follows from criterion and recorded result, so nobody "
        "chooses it. This page is made by `python tools/claims_pages.py` from the files that it names.\n",
        "*Reproduced*: all criteria hold. *Same direction*: the effect has the claimed sign, but is smaller than the "
        "criterion asks, or its interval reaches beyond. *Not reproduced*: neither. *Not measured yet*: at least one "
        "criterion has no recorded result. *Not testable*: a small machine without listeners cannot tell. The worst "
        "criterion decides.\n",
        csv_table("All claims", ["claim", "section of the paper", "verdict", "chapter"], rows),
        csv_table("How many", list(counts), [list(map(str, counts.values()))]),
    ]
    for entry in judged:
        parts.append(f"({entry['id']})=\n## {entry['claim'].rstrip('.')}\n")
        parts.append(csv_table("The paper", ["section", "numbers"], [[entry["section"], paper_says(entry["paper"])]]))
        if not entry["criteria"]:
            parts.append(f"**Not testable.** {entry['why']}\n")
            continue
        rows = []
        for row in entry["criteria"]:
            where = f"[{row['source']}]({repository['url']}/blob/{repository['branch']}/{row['source']})"
            said = NOT_MEASURED if row["verdict"] == NOT_TESTABLE else row["verdict"]
            rows.append([f"`{row['metric']}`", row["criterion"], shown(row["result"]), said, where])
            for mutant in row["mutants"]:
                said = "passes: this criterion does not reject it"
                said = said if mutant["metric"] in entry["passing_mutants"] else "fails"
                said = NOT_MEASURED if mutant["verdict"] == NOT_TESTABLE else said
                rows.append(
                    [f"broken on purpose: `{mutant['metric']}`", "must fail", shown(mutant["result"]), said, ""]
                )
        header = ["measured", "criterion", "ours with 95 % interval", "verdict", "rows"]
        parts.append(csv_table(f"**{status(entry).capitalize()}**", header, rows))
        if len(rejections := rejected_by(entry)) > 1:
            parts.append("Broken models, and which criteria reject them: " + "; ".join(rejections) + ".\n")
    return "\n".join(parts)


def rejected_by(entry: Mapping) -> list[str]:
    """Of every broken model that has a result file of its own: the criteria that it fails."""
    fails: dict[str, list[str]] = {}
    for row in entry["criteria"]:
        for mutant in row["mutants"]:
            file, key = mutant["metric"].split("/")
            if file != row["metric"].split("/")[0] and mutant["verdict"] != NOT_TESTABLE:
                fails.setdefault(file, []).extend([key] if mutant["metric"] not in entry["passing_mutants"] else [])
    return [f"`{file}` fails {' and '.join(f'`{k}`' for k in keys) or 'none'}" for file, keys in fails.items()]


def printed(row: Mapping, key: str) -> str:
    """A number of the paper with as many digits as the paper has, or an empty cell."""
    one = ("wer", "mushra", "salmon", "stories", "web_questions", "llama_questions")
    if key in ("tuned", "base"):
        return f"{row[key]:g}" if key in row else ""
    digits = {"bits_per_second": 0}.get(key, 1 if key in one else 2)
    return f"{row[key]:.{digits}f}" if key in row else ""


def percent(result: Mapping | None) -> str:
    """A share with its interval in %, or an empty cell."""
    return (
        ""
        if result is None
        else "{:.0f} ({:.0f} to {:.0f})".format(*(100 * result[k] for k in ("value", "low", "high")))
    )


def language_parts(table: list[dict], results: Mapping[str, Mapping]) -> list[str]:
    """The paper's table of spoken language models beside ours."""
    ours = results.get("taslm", {})
    columns = {"tuned": "tuned", "base": "base", "gpt4o": "GPT-4o", "utmos": "UTMOS", "listeners": "listeners"}
    columns |= {"salmon": "SALMon", "stories": "StoryCloze"}
    rows = []
    for row in table:
        name = row.get("ours", "")
        pairs = [percent(ours.get(f"{name}_{kind}_pairs")) for kind in ("acoustic", "story")]
        rows.append([row["name"], *(printed(row, key) for key in columns), *pairs])
    header = ["system", *columns.values(), "ours: acoustic pairs", "ours: stories"]
    asked = {"embedding": "TASLM embedding", "token": "TASLM token", "text_model": "text model, written question"}
    asked["no_question"] = "TASLM embedding without the question"
    paper = next(row for row in table if "web_questions" in row)
    rows_asked = [
        [
            name,
            *(printed(paper, key) if name == paper["name"] else "" for key in ("web_questions", "llama_questions")),
            percent(ours.get(f"qa_accuracy_{key}")),
        ]
        for key, name in asked.items()
    ]
    return [
        "## Spoken language models\n\nThe paper compares TASLM with TWIST {cite}`hassid2023twist` and Spirit LM "
        "{cite}`nguyen2024spiritlm`. Their numbers are the published ones. `tools/score_sets.py` loads such models and "
        "judges recordings by them, but the published weights were never run here. Parameters are in billions. "
        "Ours stand in the last columns: SmolLM2 with 135 million parameters and adapters, on the project's own pairs "
        "and stories, in %. SALMon and StoryCloze hold other items, so only the order within a column can be "
        "compared. An empty cell was not measured.\n",
        csv_table("Continuations, consistent speech, right endings", header, rows),
        csv_table(
            "Spoken questions after three examples", ["system", "WebQuestions", "LLaMA-Questions", "ours"], rows_asked
        ),
    ]


def paper_page(table: list[dict], language: list[dict], results: Mapping[str, Mapping]) -> str:
    """book/paper_vs_ours.md: the paper's tables by machine, next to ours."""
    bars, cells = results["bars"], results["evaluator_validation"]["cells"]
    measured = {(cell["system"], cell["metric"]): cell["ours"] for cell in cells}
    columns = [("wer", "wer", 100, 1), ("duration_consistency_50ms", "duration", 1, 2), ("dnsmos_p808", "dnsmos", 1, 2)]
    columns += [("bits_per_second", "bits_per_second", 1, 0)]
    titles = {"wer": "Word error rate in %", "duration_consistency_50ms": "Words within 50 ms of their duration"}
    titles |= {"dnsmos_p808": "DNSMOS P.808", "bits_per_second": "Bits per second"}

    def ours(group: str, system: str, metric: str, scale: float, digits: int) -> str:
        entry = bars.get(f"{group}-{system}", {}).get(metric)
        if entry is None:
            return ""
        ends = [entry[key] for key in ("value", "low", "high") if entry[key] is not None]
        value, *interval = (f"{scale * x:.{digits}f}" for x in ends)
        return f"{value} ({' to '.join(interval)})" if interval else value

    sizes = {group: bars[f"{group}-original"]["run"]["n_utterances"] for group in GROUPS}
    parts = [
        "# The paper's numbers and ours\n\nThe reconstruction table of the paper {cite}`tseng2025taste` beside ours. "
        "The systems have the same structure, and nothing else is equal: theirs were trained on 40,000 hours and "
        "tested on LibriSpeech, ours on an hour or two of synthetic speech and tested on the recordings of "
        "[chapter 7](../notebooks/07_reconstruction.ipynb); the judges differ too. Compare the order of the rows, not "
        "the values. This page is made by `python tools/claims_pages.py`.\n",
        "## Ours at small scale\n\nAn empty cell was not measured. Brackets hold bootstrap intervals over texts.\n",
    ]
    header = ["system", "paper", *[f"ours: {name} ({sizes[group]} recordings)" for group, name in GROUPS.items()]]
    for metric, of_paper, scale, digits in columns:
        rows = [
            [row["name"], printed(row, of_paper), *(ours(g, row["ours"], metric, scale, digits) for g in GROUPS)]
            for row in table
            if "ours" in row
        ]
        parts.append(csv_table(titles[metric], header, rows))
    rows = []
    for row in table:
        values = [row["name"]]
        names = {"dnsmos": "dnsmos_p808", "visqol": "visqol", "duration": "duration_50ms"}
        for of_paper, metric in names.items():
            ours_here = measured.get((row.get("demo", "orig"), metric))
            values += [printed(row, of_paper), "" if ours_here is None else f"{ours_here:.2f}"]
        rows.append([*values, *(printed(row, key) for key in ("utmos", "speaker", "mushra"))])
    heads = [f"{name}: {who}" for name in ("DNSMOS", "ViSQOL", "within 50 ms") for who in ("paper", "our evaluator")]
    parts += [
        "## Theirs, measured by our evaluator\n\nThe authors published what their systems say for five utterances. Our "
        "[evaluator](evaluator.md) measured those files, so here the systems are equal and the samples differ: five "
        "utterances against a whole test set. UTMOS, speaker similarity and MUSHRA need models or listeners that we do "
        "not have.\n",
        csv_table("The published audio", ["system", *heads, "UTMOS: paper", "speaker: paper", "MUSHRA: paper"], rows),
        *language_parts(language, results),
        "What follows for each claim is on the page of [claims](claims.md); where paper, summaries and released code "
        "disagree, in the [register of deviations](deviations.md).\n",
    ]
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Every generated file and its content."""
    claims, results = yaml.safe_load((ROOT / "tests" / "claims.yaml").read_text(encoding="utf-8")), load_results()
    tables = yaml.safe_load((ROOT / "tests" / "paper_tables.yaml").read_text(encoding="utf-8"))
    judged = judge(claims, results)
    return {
        ROOT / "results" / "claims.json": json.dumps(judged, indent=1) + "\n",
        ROOT / "book" / "claims.md": claims_page(judged),
        ROOT / "book" / "paper_vs_ours.md": paper_page(tables["reconstruction"], tables["language"], results),
        chapter_records.PATH: json.dumps(chapter_records.compact(results, judged, status, shown), indent=1) + "\n",
    }


if __name__ == "__main__":
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
