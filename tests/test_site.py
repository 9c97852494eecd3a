"""The documentation site builds without a warning, its links lead somewhere, and nothing in it comes from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

import nplrp
from nplrp import evaluate, golden
from nplrp.rules import RULES
from nplrp.rules.composites import COMPOSITES
from nplrp.rules.dialects import DIALECTS

pytest.importorskip("mkdocs", reason="needs the extra docs")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def _making(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(out)]
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" == done.stdout
    return out


class Links(HTMLParser):
    """Collects what a page links to, what it loads, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag in ("link", "script", "img", "source", "iframe") and attributes.get("rel") not in ("next", "prev", "canonical"):
            self.loaded += [attributes[key] for key in ("href", "src") if attributes.get(key)]


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 50
    for path, page in pages.items():
        for link in page.loaded:
            assert re.match(r"data:|(?!\w+:|//)", link), f"{path.name} loads {link}"
        for link in [*page.links, *page.loaded]:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            found = (path.parent / unquote(target)).resolve() if target else path
            assert found.exists(), f"{path.relative_to(site)}: {link}"
            if anchor and found in pages and anchor != "__top":
                assert unquote(anchor) in pages[found].anchors, f"{path.relative_to(site)}: {link}"


def test_formulas_are_drawn(site):
    """Every formula became MathML, none is left as LaTeX."""
    for path in [*DOCS.glob("*.md"), *(DOCS / "rules").glob("*.md")]:
        written = path.read_text("utf-8").count("```math\n")
        page = (site / path.relative_to(DOCS)).with_suffix(".html").read_text("utf-8")
        assert page.count('<div class="math"><math ') == written, path
        assert "```math" not in page and "\\frac" not in page


def test_what_cannot_be_drawn_is_said():
    from making.formulas import mathml

    assert mathml(r"\frac{a}{b}").startswith("<math ")
    with pytest.raises(ValueError, match="can't be drawn"):
        mathml(r"\begin{aligned} a &= b \end{aligned}")
    with pytest.raises(ValueError, match="can't be drawn"):
        mathml(r"\nosuchcommand{a}")


def test_tables_hold_every_row(site):
    assert "<!-- table:" not in "".join(path.read_text("utf-8") for path in site.rglob("*.html"))
    presets = Links((site / "presets.html").read_text("utf-8")).anchors
    assert set(COMPOSITES) <= presets
    dialects = (site / "dialects.html").read_text("utf-8")
    assert all(f"<code>{name}</code>" in dialects for name in DIALECTS)
    rules = (site / "rules" / "index.html").read_text("utf-8")
    assert all(f"<code>{name}</code>" in rules for name in RULES)
    commands = (site / "command-line.html").read_text("utf-8")
    assert all(f"nplrp {name}" in commands for name in ("explain", "golden check", "serve", "batch"))


@pytest.mark.parametrize("package", [nplrp, golden, evaluate])
def test_every_public_name_is_in_the_reference(package):
    listed = "".join(path.read_text("utf-8") for path in (DOCS / "reference").glob("*.md"))
    functions = [name for name in package.__all__ if not name.isupper()]
    assert [name for name in functions if not re.search(rf"^::: nplrp\.[\w.]+\.{name}$", listed, re.MULTILINE)] == []


def test_new_pages_find_their_place(tmp_path):
    """A page that nobody named in mkdocs.yml is shown all the same, and one that is named and missing breaks nothing."""
    from making.site import on_config

    for name in ("index.md", "notebooks/01-first.ipynb", "rules/a.md", "rules/b.md", "forgotten.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# Page")
    nav = [{"Home": "index.md"}, {"Use": ["absent.md", "notebooks/*"]}, {"Rules": ["rules/b.md", "rules/*"]}, {"Empty": ["nothing/*"]}]
    config = on_config(SimpleNamespace(docs_dir=str(tmp_path), nav=nav, mdx_configs={}))
    assert config.nav == [
        {"Home": "index.md"},
        {"Use": ["notebooks/01-first.ipynb"]},
        {"Rules": ["rules/b.md", "rules/a.md"]},
        {"More": ["forgotten.md"]},
    ]


def test_the_servers_page_of_rules_is_made_of_the_same_pages():
    from making.rules_page import PAGES, TARGET, page

    assert sorted(PAGES) == sorted(path.stem for path in (DOCS / "rules").glob("*.md") if path.stem != "index")
    assert TARGET.read_text("utf-8") == page(), "run: python docs/making/rules_page.py"
