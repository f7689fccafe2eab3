"""The book: its sources (prose, registers, configuration) and the built pages, which must work with no network."""

import functools
import os
import re
import subprocess
import sys
import urllib.parse

import book_files
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from conftest import ROOT
from prose import bare_results

TOC = book_files.toc_files()
PAGES = [f"{page}.html" for page in TOC]
each_page = pytest.mark.parametrize("page", PAGES)

# -- sources


def prose_of(page):
    path = book_files.source_path(page)
    if path.suffix == ".md":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@pytest.mark.parametrize(
    "text, found",
    [
        ("The error is 17 ms.", True),
        ("It falls to 2.13.", True),
        ("Accuracy rises by 3 % here.", True),
        ("```{note}\nIt takes 5 s.\n```", True),
        ("| a | b |\n|---|---|\n| x | 1.5 |", True),
        ("{cite}`a` reports 4.4 %. We get 4.6 %.", True),  # only the sentence with the citation is quoted
        ("The error is {glue:text}`99_ledger.ipynb::02.error_ms:.0f` ms.", False),
        ("{cite}`a` reports 4.4 %.", False),
        ("Table 1 has 4.4 %.", False),
        ("Speech at `16 kHz`, $x = 0.5$, and\n$$y = 1.5$$", False),
        ("```python\nx = 1.5\n```", False),
        ("| a | paper |\n|---|---|\n| x | 1.5 |", False),
        ("As layer 0 times out, head 3 says nothing.", False),
        ("Layer 2 of 4, in 2025, with Python 3.11 and torch 2.13.0 [here](https://a.b/1.5).", False),
    ],
)
def test_the_lint_finds_results_typed_by_hand(text, found):
    assert bool(bare_results(text)) is found


def test_prose_holds_no_results_typed_by_hand():
    allowed = yaml.safe_load((ROOT / "tests" / "prose_allow.yaml").read_text()) or []
    used, bad = set(), []
    for page in TOC:
        for sentence in bare_results(prose_of(page)):
            reasons = [i for i, entry in enumerate(allowed) if entry["file"] == page and entry["text"] in sentence]
            used.update(reasons)
            bad += [] if reasons else [f"{page}: {sentence}"]
    assert "\n".join(bad) == ""
    assert all(entry["why"] for entry in allowed)
    assert [entry for i, entry in enumerate(allowed) if i not in used] == [], "entries that nothing needs"


def test_deviations_are_marked_in_the_source_and_listed_in_the_register():
    register = (ROOT / "book" / "deviations.md").read_text().split("## The paper")[0]
    listed = re.findall(r"^\| `([a-z0-9-]+)` \|", register, flags=re.MULTILINE)
    marks = {
        mark
        for part in ("taste_min", "tools")
        for file in (ROOT / part).rglob("*.py")
        for mark in re.findall(r"# dev: (\S+)", file.read_text())
    }
    assert len(set(listed)) == len(listed)
    assert marks - set(listed) == set(), "add rows to book/deviations.md"
    assert set(listed) - marks == set(), "no source line has these marks"


def test_every_public_module_is_on_the_api_page():
    listed = re.findall(r"automodule:: taste_min\.(\w+)", (ROOT / "book" / "api.md").read_text())
    modules = {file.stem for file in (ROOT / "taste_min").glob("*.py") if not file.stem.startswith("_")} - {"cli"}
    assert len(listed) == len(set(listed))
    assert modules - set(listed) == set(), "add them to book/api.md"
    assert set(listed) - modules == set(), "remove them from book/api.md"


def test_messages_of_the_troubleshooting_page_exist():
    sources = [*(ROOT / "taste_min").glob("*.py"), *(ROOT / "tools").glob("*.py"), ROOT / "Makefile"]
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in sources))  # strings over two lines
    rows = re.findall(r"^\| (`[^|]*)\|", (ROOT / "book" / "troubleshooting.md").read_text(), flags=re.MULTILINE)
    quoted = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 15
    assert [quote for quote in quoted if quote not in source] == []


def test_the_citation_on_the_page_is_that_of_the_file():
    cited, page = yaml.safe_load((ROOT / "CITATION.cff").read_text()), (ROOT / "book" / "related.md").read_text()
    assert all(f"{{{cited[key]}}}" in page for key in ("title", "version", "repository-code"))


def test_every_reference_is_cited():
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), flags=re.MULTILINE)
    text = "\n".join(map(prose_of, TOC))
    cited = {key.strip() for keys in re.findall(r"\{cite[:\w]*\}`([^`]*)`", text) for key in keys.split(",")}
    assert set(keys) == cited


def test_constraints_pin_exact_versions_of_every_dependency():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0]
    named = re.findall(r'"([A-Za-z0-9_-]+)(?:\[[\w,]*\])?\s*[>=<]=', project.split("dependencies = [")[1])
    missing = {re.sub(r"[-_.]+", "-", name).lower() for name in named} - pinned - {"taste-min"}
    assert missing == set()


def test_environment_file_repeats_no_list():
    pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    assert pip == ["-c constraints.txt", "-e .[book,test]"]


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "\nmake test\n" in script.read_text()


# -- pages


@pytest.fixture(scope="module")
def pages(html_dir):
    return {page: BeautifulSoup((html_dir / page).read_text(), "html.parser") for page in PAGES}


@pytest.mark.notebooks
def test_there_is_a_start_page_and_a_page_per_entry(html_dir):
    assert (html_dir / "index.html").exists()
    assert [page for page in PAGES if not (html_dir / page).exists()] == []


@pytest.mark.notebooks
@each_page
def test_no_errors_on_the_page(page, pages, html_dir):
    text = pages[page].get_text()
    for trace in ("Traceback (most recent call last)", "{glue:", "{numref}", "{cite}", "<Figure size", str(ROOT)):
        assert trace not in text
    assert not pages[page].select(".stderr, .problematic, .system-message")


@pytest.mark.notebooks
@each_page
def test_headings_and_language(page, pages):
    levels = [int(tag.name[1]) for tag in pages[page].select("article h1, article h2, article h3, article h4")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert pages[page].html.get("lang")


@pytest.mark.notebooks
@each_page
def test_page_weight(page, html_dir):
    assert (html_dir / page).stat().st_size <= 6e6


@pytest.mark.notebooks
@each_page
def test_every_image_has_a_description(page, pages):
    for image in pages[page].find_all("img"):
        alt = image.get("alt", "")
        assert len(alt) >= 8, f"{image.get('src')}: set mystnb.image.alt in the cell's metadata"
        assert not re.search(r"\.(png|jpe?g|svg)$|_images/", alt)


@pytest.mark.notebooks
def test_every_player_of_the_notebooks_is_on_its_page(pages):
    total = 0
    for path in book_files.notebooks():
        executed = nbformat.read(ROOT / "_build" / "executed" / path.name, as_version=4)
        html = [
            "".join(output.get("data", {}).get("text/html", ""))
            for cell in executed.cells
            for output in cell.get("outputs", [])
        ]
        players = pages[f"notebooks/{path.stem}.html"].find_all("audio")
        assert len(players) == sum(text.count("<audio") for text in html), path.stem
        assert all(player.get("aria-label") and player.get("src", "").startswith("data:") for player in players)
        total += len(players)
    assert total > 0


def resources(soup):
    """Addresses that a browser loads by itself: everything but hyperlinks."""
    for tag in soup.find_all(["script", "img", "audio", "video", "source", "iframe", "embed", "object", "input"]):
        yield from (tag[name] for name in ("src", "data", "srcset", "poster") if tag.get(name))
    for tag in soup.find_all("link"):
        if not set(tag.get("rel", [])) & {"next", "prev", "index", "search", "canonical", "author", "license"}:
            yield tag["href"]
    for style in soup.find_all("style"):
        yield from re.findall(r"url\(([^)]*)\)|@import\s+\S+", style.get_text())


@pytest.mark.notebooks
@each_page
def test_page_loads_nothing_from_elsewhere(page, pages, html_dir):
    for address in resources(pages[page]):
        if address.startswith("data:"):
            continue
        assert not re.match(r"(https?:)?//", address), f"{address} needs the network"
        file = (html_dir / page).parent / urllib.parse.unquote(address.split("?")[0].split("#")[0])
        assert file.exists(), address
    for script in pages[page].find_all("script", src=False):
        assert not re.search(r"https?://", script.get_text()), script.get_text()[:200]


@pytest.mark.notebooks
def test_style_sheets_load_nothing_from_elsewhere(html_dir):
    sheets = list(html_dir.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        remote = re.findall(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^)'\"]+)", sheet.read_text())
        assert remote == [], sheet.name


@pytest.mark.notebooks
def test_math_comes_with_the_pages(pages, html_dir):
    with_math = [page for page, soup in pages.items() if soup.select("article .math")]
    assert with_math
    for page in with_math:
        sources = [tag["src"].split("?")[0] for tag in pages[page].find_all("script", src=True)]
        (script,) = [source for source in sources if "mathjax" in source]
        folder = ((html_dir / page).parent / script).parent
        assert len(list((folder / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20


@functools.cache
def ids_of(path):
    return {tag["id"] for tag in BeautifulSoup(path.read_text(), "html.parser").find_all(id=True)}


@pytest.mark.notebooks
@each_page
def test_internal_links_lead_somewhere(page, pages, html_dir):
    for link in pages[page].select("article a[href], nav a[href]"):
        address, _, fragment = urllib.parse.unquote(link["href"]).partition("#")
        if re.match(r"[a-z]+:", address):
            continue
        target = (html_dir / page).parent / address if address else html_dir / page
        assert target.exists(), link["href"]
        if fragment and target.suffix == ".html":
            assert fragment in ids_of(target.resolve()), link["href"]


@pytest.mark.notebooks
def test_colab_buttons_open_existing_notebooks(pages):
    repository = book_files.config()["repository"]
    prefix = repository["url"].replace("https://github.com", "https://colab.research.google.com/github")
    for page, soup in pages.items():
        links = {a["href"] for a in soup.find_all("a", href=re.compile("colab.research"))}
        if page.startswith("notebooks/"):
            path = page.replace(".html", ".ipynb")
            assert links == {f"{prefix}/blob/{repository['branch']}/{path}"}
            assert (ROOT / path).exists()
        else:  # a page may name a notebook
            assert links <= {f"{prefix}/blob/{repository['branch']}/{page}.ipynb" for page in TOC}


@pytest.mark.notebooks
@pytest.mark.parametrize("key, succeeds", [("07.loss", True), ("07.los", False)])
def test_a_number_that_was_not_measured_stops_the_build(key, succeeds, tmp_path):
    record = {"application/papermill.record/text/plain": "2.345"}
    output = nbformat.v4.new_output("display_data", data=record, metadata={"scrapbook": {"name": "07.loss"}})
    output.metadata["scrapbook"]["mime_prefix"] = "application/papermill.record/"
    cells = [nbformat.v4.new_markdown_cell("# Ledger"), nbformat.v4.new_code_cell("1", outputs=[output])]
    kernel = {"kernelspec": book_files.KERNEL, "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "ledger.ipynb")
    (tmp_path / "index.md").write_text(
        f"# Page\n\nLoss {{glue:text}}`ledger.ipynb::{key}:.1f` nat\n\n```{{toctree}}\nledger\n```\n"
    )
    (tmp_path / "conf.py").write_text("extensions = ['myst_nb']\nnb_execution_mode = 'off'\n")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", tmp_path, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) is succeeds, done.stderr
    if succeeds:
        assert "2.3" in (tmp_path / "html" / "index.html").read_text()
    else:
        assert "07.los" in done.stderr
