"""Makes the server's page of rules, `nplrp/serve/page/rules.html`, from the pages of the site: `python docs/making/rules_page.py`.

It is kept in git, since a wheel has neither docs/ nor Markdown; a test holds it equal to what this makes.
"""

import re
import sys
from pathlib import Path

import markdown

HERE = Path(__file__).parent
DOCS = HERE.parent
ROOT = DOCS.parent
for _folder in (DOCS, ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from making.formulas import fence  # noqa: E402
from making.tables import presets_html, rule_page  # noqa: E402

TARGET = ROOT / "nplrp" / "serve" / "page" / "rules.html"
#: The order in which rules are told.
PAGES = ("zero", "epsilon", "gamma", "zplus", "alpha_beta", "wsquare", "flat", "zbox", "norm", "pass", "pools", "joins", "ignore_bias")

_HEAD = """<!doctype html>
<!-- Made by docs/making/rules_page.py from docs/rules, docs/ledger.md and docs/presets.md. -->
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>nplrp: what the rules are</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="style.css">
</head>
<body>
<header class="top"><h1>nplrp</h1><p class="facts">What the rules are</p><nav aria-label="Pages"><a href="./">Heatmaps</a></nav></header>
<main class="text">
"""


def page() -> str:
    """Return the whole page."""
    intro, rest = _body("rules/index.md").split("\n## All rules")[0], _body("ledger.md")
    parts = [_HEAD, _html(intro), '\n<nav aria-label="Rules"><p class="facts">', ", ".join(_entry(name) for name in PAGES), "</p></nav>\n"]
    parts += ['\n<h2 id="rules">Rules</h2>\n', *(_rule(name) for name in PAGES)]
    parts += ['\n<h2 id="ledger">The ledger</h2>\n', _html(rest.split("\n```python")[0])]
    parts += ['\n<h2 id="presets">Presets</h2>\n', _html(_body("presets.md").split("\nOn the command line")[0]), "\n"]
    parts += [presets_html(lambda rule: f"#rule-{rule_page(rule)}"), "</main>\n</body>\n</html>\n"]
    return "".join(parts)


def _entry(name: str) -> str:
    title = re.sub(r"</?p>", "", _html(_title(name)))
    return f'<a href="#rule-{name}">{title}</a>'


def _rule(name: str) -> str:
    """Return a rule's section: its page up to the worked examples."""
    body = _body(f"rules/{name}.md")
    switches = body.find("**Switches.**")
    end = body.index("\n\n", switches) if switches >= 0 else body.index("```python")
    title = re.sub(r"</?p>", "", _html(_title(name)))
    return f'<h3 id="rule-{name}">{title}</h3>\n{_html(body[:end])}\n\n'


def _title(name: str) -> str:
    return (DOCS / "rules" / f"{name}.md").read_text("utf-8").splitlines()[0].removeprefix("# ")


def _body(path: str) -> str:
    """Return a page's Markdown without its title, its links led to what this page has, or taken out."""

    def led(found: re.Match[str]) -> str:
        text, target = found[1], found[2].partition("#")[0]
        stem = Path(target).stem
        here = {"ledger": "#ledger", "presets": "#presets", **{each: f"#rule-{each}" for each in PAGES}}
        return f"[{text}]({here[stem]})" if stem in here else text.removesuffix(".md")

    text = (DOCS / path).read_text("utf-8").partition("\n")[2]
    return re.sub(r"\[([^\]]*)\]\(([^)]*)\)", led, text)


def _html(text: str) -> str:
    fences = {"custom_fences": [{"name": "math", "class": "math", "format": fence}]}
    made = markdown.markdown(text, extensions=["tables", "pymdownx.superfences"], extension_configs={"pymdownx.superfences": fences})
    return re.sub(
        r"(<table>.*?</table>)", r'<div class="scroll" tabindex="0" role="region" aria-label="Table">\1</div>', made, flags=re.DOTALL
    )


if __name__ == "__main__":
    TARGET.write_text(page(), "utf-8")
