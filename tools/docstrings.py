"""Sphinx extension: docstrings are plain text with Markdown's backticks, so make them safe for autodoc's reST.

Indented or column-aligned paragraphs stay as they are typed; in the others, characters with a meaning in reST are
escaped and `names` become code. Sections such as "Args:" are left to napoleon.
"""

import re

SECTION = re.compile(r"(Args|Attributes|Example|Examples|Keys|Note|Raises|Returns|Yields):$")


def _inline(line: str) -> str:
    """Escape reST markup outside code, and turn `code` into reST's ``code``."""
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(
        f"``{part.strip('`')}``" if i % 2 else re.sub(r"([*|\\]|_(?=\W|$)|`)", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def paragraphs(lines: list[str]) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
    return [group for group in groups if group]


def convert(lines: list[str]) -> list[str]:
    """reST lines for the lines of a docstring."""
    out, in_section = [], False
    for group in paragraphs(lines):
        if SECTION.match(group[0]):
            in_section = True
        elif not group[0].startswith(" "):
            in_section = False
        aligned = any(line.startswith(" ") or re.search(r"\S {3,}\S", line) for line in group)
        if aligned and not in_section:
            lead = []
            while group and not group[0].startswith(" ") and not re.search(r"\S {3,}\S", group[0]):
                lead.append(_inline(group.pop(0)))  # "for example:" above the block
            out += [*lead, *([""] if lead else []), ".. code-block:: text", "", *("    " + line for line in group), ""]
        else:
            out += [*map(_inline, group), ""]
    return out


def _process(app, what, name, obj, options, lines):
    lines[:] = convert(lines)


def setup(app):
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
