"""Finds results typed by hand into the prose of pages and notebooks.

A sentence may hold a decimal number, or a number with a unit, only when it is glued from the ledger, stands in code or
math (constants go there), or is quoted: the sentence has a citation or points to a table, section or equation. Tables
whose header names the paper, the original, settings or constants are quotations as a whole. Everything else has to be
listed in `tests/prose_allow.yaml` with a reason.
"""

import re

UNITS = (
    r"%|percent|‰|ms|s|seconds?|minutes?|min|h|hours?|Hz|kHz|dB|bits?/s|bits?|kbit/s|MB|MiB|GB|GiB|KiB|kB|"
    r"times|percentage points|nats?|samples/s|tokens/s|words/s"
)
RESULT = re.compile(rf"(?<![\w.,/-])(?:\d+[.,]\d+(?!\w|\.\d)|\.\d+(?!\w|\.\d)|\d+(?:,\d{{3}})*\s?(?:{UNITS})(?![\w/]))")
QUOTED = re.compile(r"\{cite[:\w]*\}|\b(?:table|section|equation|figure|appendix)s?\s+[A-Z]?\d", re.IGNORECASE)
CONSTANTS = re.compile(r"paper|original|setting|constant|budget", re.IGNORECASE)
# directives whose body is prose; any other fence holds code or names
PROSE_FENCES = re.compile(
    r"\{(?:note|tip|warning|important|admonition|exercise|solution|dropdown|seealso|glossary|margin|epigraph|grid|"
    r"grid-item|card|list-table|figure)\b"
)


def _without_fences(text: str) -> str:
    """Drop fenced code and the like; keep the body of prose directives, without their fences and options."""
    kept, stack = [], []
    for line in text.split("\n"):
        fence = re.match(r"\s*(`{3,}|:{3,}|~{3,})\s*(.*)", line)
        if fence and stack and not fence[2] and fence[1][0] == stack[-1][0][0] and len(fence[1]) >= len(stack[-1][0]):
            stack.pop()
            kept.append("")
        elif fence and (not stack or stack[-1][1]):
            stack.append((fence[1], bool(PROSE_FENCES.match(fence[2])) or fence[1][0] == ":"))
            kept.append("")
        elif stack and (not stack[-1][1] or re.match(r"\s*:[\w-]+:", line)):
            kept.append("")
        else:
            kept.append(line)
    return "\n".join(kept)


def _without_exempt_tables(text: str) -> str:
    lines, exempt, kept = text.split("\n"), False, []
    for i, line in enumerate(lines):
        if not line.lstrip().startswith("|"):
            exempt = False
        elif i + 1 < len(lines) and re.match(r"\s*\|[\s:|-]+\|?\s*$", lines[i + 1]):
            exempt = bool(CONSTANTS.search(line))
        kept.append("" if exempt and line.lstrip().startswith("|") else line)
    return "\n".join(kept)


def bare_results(markdown: str) -> list[str]:
    """The sentences (or table rows) of a markdown text with a result in them that is neither glued nor quoted."""
    text = re.sub(r"<!--.*?-->", "", markdown, flags=re.DOTALL)
    text = _without_exempt_tables(_without_fences(text))
    text = re.sub(r"\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    text = re.sub(r"\{(?!cite)[\w:]+\}(`+).*?\1(?!`)", " ", text, flags=re.DOTALL)  # roles, except citations
    text = re.sub(r"(?<!\})(`+)(?!`).*?\1(?!`)", " ", text, flags=re.DOTALL)  # code
    text = re.sub(r"(?<![\\$])\$[^$\n]+\$", " ", text)  # math
    text = re.sub(r"\]\([^)]*\)|https?://\S+", "]", text)
    text = re.sub(r"\b(?:Python|torch|CUDA|version|arXiv:?)\s*\d[\d.]*\d", " ", text)
    text = re.sub(r"\b(?:layer|chapter|step|head|seed|token|code|row|index)s?\s+\d+\b", " ", text, flags=re.IGNORECASE)
    pieces = re.split(r"(?<=[.!?:;])\s+(?=[A-Z*_(\[])|\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.)\s?)", text)
    return [" ".join(piece.split()) for piece in pieces if RESULT.search(piece) and not QUOTED.search(piece)]
