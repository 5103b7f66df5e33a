"""What the documentation says is there, without building it: links, contents, versions, modules.

The build itself, which takes minutes, runs the code of every page (`sphinx-build -nW`).
"""

import json
import re
from pathlib import Path

import pytest

import mlem_jax

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    page for page in (*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb"))
    if not {"_build", ".ipynb_checkpoints"} & set(page.parts)
)  # fmt: skip


def text_of(page):
    """Of a page, without its code."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells
                         if cell["cell_type"] == "markdown")  # fmt: skip

    def kept(block):
        return block[0] if block[1].startswith(("{toctree}", "{include}")) else ""

    return re.sub(r"^```(.*?)^```$", kept, page.read_text(), flags=re.MULTILINE | re.DOTALL)


def headings_of(page):
    """Anchors of a page, as they are made from its headings."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_internal_link_of_a_page_resolves(page):
    text = text_of(page)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"`[^`]* <([^>`]+)>`", text)
    for link in links:
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            aim = page.parent / file if file else page
            assert aim.exists(), link
            assert not anchor or anchor in headings_of(aim), link


def test_every_page_is_in_the_contents():
    told = {DOCS / "index"}
    for page in PAGES:
        for contents in re.findall(r"^```\{toctree\}\n(.*?)^```$", text_of(page), re.M | re.S):
            names = [line for line in contents.splitlines() if re.fullmatch(r"[\w/]+", line)]
            told |= {page.parent / name for name in names}
    assert {page.with_suffix("") for page in PAGES} == told


def test_every_public_module_is_in_the_reference():
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    told = set(re.findall(r"automodule:: mlem_jax\.([\w.]+)", pages))
    top = {path.stem for path in (ROOT / "mlem_jax").iterdir()
           if not path.name.startswith(("_", "py."))}  # fmt: skip
    assert told == top - {"arrays", "checks"}


def test_the_quickstart_begins_with_the_ladder_that_the_pages_import():
    page = (DOCS / "quickstart.md").read_text()
    first = re.findall(r"^```\{code-cell\}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0]
    assert first == (DOCS / "small_ladder.py").read_text()


def test_the_notebook_holds_no_outputs():
    for cell in json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_version_is_the_same_everywhere():
    version = mlem_jax.__version__
    cited = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == [version]
    assert re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == version
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
