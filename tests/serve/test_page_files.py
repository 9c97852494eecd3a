"""What can be said of the page's files without a browser."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import nplrp.serve
from nplrp.rules.composites import COMPOSITES
from nplrp.rules.dialects import DIALECTS

PAGE = Path(nplrp.serve.__file__).parent / "page"
FILES = sorted(PAGE.iterdir())


class Tags(HTMLParser):
    """Collects (tag, attributes, text up to the next tag)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))

    def handle_data(self, data):
        if self.found:
            self.found[-1][2].append(data)


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".html"], ids=lambda p: p.name)
def test_nothing_inline_and_nothing_from_elsewhere(path):
    """So a Content-Security-Policy of 'self' holds for scripts and styles."""
    tags = Tags(path.read_text("utf-8")).found
    for tag, attributes, text in tags:
        assert "style" not in attributes and not any(key.startswith("on") for key in attributes), attributes
        assert tag != "style" and not (tag == "script" and "".join(text).strip())
        for key in ("href", "src", "action"):
            value = attributes.get(key, "")
            assert not re.match(r"[a-z]*:?//|/", value), f"{value}: not relative"
            if value and not value.startswith("#") and value not in ("./", "openapi.json"):
                assert (PAGE / value.partition("#")[0]).is_file(), value
    ids = [attributes["id"] for _, attributes, _ in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in tags:
        target = attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in ids


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix in (".js", ".css")], ids=lambda p: p.name)
def test_no_markup_from_strings(path):
    text = path.read_text("utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "@import", "url("):
        assert word not in text
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    for module in re.findall(r'from "(.+?)"', text):
        assert module.startswith("./") and (PAGE / module).is_file()


def test_every_preset_is_explained():
    """The page's table of presets is the library's."""
    text = (PAGE / "rules.html").read_text("utf-8")
    rows = dict(re.findall(r'<tr><th scope="row" id="(.+?)">(.+?)</tr>', text))
    assert set(rows) == set(COMPOSITES)
    for name, composite in COMPOSITES.items():
        cells = re.findall(r"<td>(.*?)</td>", rows[name])
        linked = re.findall(r'<a href="#rule-.+?">(.+?)</a>', cells[0])  # that the anchors exist is tested above
        assert linked == [str(rule) for _, rule in composite.rows if rule is not None]
        assert cells[1:3] == [composite.start or DIALECTS[composite.dialect].start, composite.dialect]
