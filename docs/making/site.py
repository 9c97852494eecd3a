"""What mkdocs can't do by itself for the site: see the functions' first lines. mkdocs calls those whose names begin with `on_`."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.structure.files import File, Files, InclusionLevel

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
for _folder in (HERE.parent, ROOT):  # making.formulas; nplrp and its tables
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from making import formulas, tables  # noqa: E402

#: A link or an image of Markdown: what stands before the target, the target.
_LINK = re.compile(r"(\]\()([^)\s]+)(?=\))")
_LANGUAGES = {".py": "python", ".md": "markdown", ".json": "json", ".c": "c", ".toml": "toml", ".js": "javascript", ".h": "c", ".sh": "sh"}
#: Of a longer file the beginning is shown.
_MOST_LINES = 1500


def on_config(config: Any) -> Any:
    """Fill the navigation in: patterns become the pages that they name, pages that aren't there are left out, unnamed ones go to More."""
    folder = Path(config.docs_dir)
    pages = sorted(path.relative_to(folder).as_posix() for kind in ("*.md", "*.ipynb") for path in folder.rglob(kind))
    pages = [page for page in pages if ".ipynb_checkpoints" not in page]
    named = [entry for entry in _leaves(config.nav) if "*" not in entry]
    taken: set[str] = set()

    def filled(entries: list[Any]) -> list[Any]:
        found: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                ((title, below),) = entry.items()
                below = filled(below) if isinstance(below, list) else filled([below])
                if below:
                    found.append({title: below if isinstance(entry[title], list) else below[0]})
                continue
            chosen = [page for page in pages if page == entry] or [
                page for page in pages if "*" in entry and Path(page).match(entry) and page not in named
            ]
            found += [page for page in chosen if page not in taken]
            taken.update(chosen)
        return found

    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [{"name": "math", "class": "math", "format": formulas.fence}]}
    config.nav = filled(config.nav)
    rest = [page for page in pages if page not in taken]
    if rest:
        config.nav.append({"More": rest})
    return config


def _leaves(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    below = entries.values() if isinstance(entries, dict) else entries
    return [leaf for each in below for leaf in _leaves(each)]


def on_files(files: Files, config: Any) -> Files:
    """Give every file of the repository that a page links to a page of its own, so that links hold without the repository."""
    folder = Path(config.docs_dir)
    wanted = {
        (folder / page.src_uri).parent.joinpath(target).resolve()
        for page in files.documentation_pages()
        if page.src_uri.endswith((".md", ".ipynb"))
        for target in _targets(_text(page))
    }
    wanted = {path for path in wanted if path.is_relative_to(ROOT) and not path.is_relative_to(folder)}
    for path in list(wanted):
        wanted |= {each for each in path.iterdir() if each.is_file() and _shown(each)} if path.is_dir() else set()
    for path in sorted(wanted):
        if path.exists():
            files.append(File.generated(config, _page_of(path), content=_source(path), inclusion=InclusionLevel.NOT_IN_NAV))
    files.append(File.generated(config, "icon.svg", abs_src_path=str(ROOT / "nplrp" / "serve" / "page" / "icon.svg")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put in the tables that are made from nplrp's own, and lead links to files of the repository to their pages."""
    for mark, make in tables.TABLES.items():
        markdown = markdown.replace(f"<!-- table: {mark} -->", make())
    if page.file.generated_by:
        return markdown
    return _LINK.sub(lambda found: found[1] + _led(found[2], page.file.src_uri, Path(config.docs_dir)), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Do the same for notebooks, which come as HTML."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def led(found: re.Match[str]) -> str:
        link = _led(found[2], page.file.src_uri, Path(config.docs_dir))
        return found[1] + (link if ":" in link else re.sub(r"\.(md|ipynb)(?=#|$)", ".html", link))

    return re.sub(r'(\bhref=")([^"]+)(?=")', led, html)


def _led(link: str, page: str, folder: Path) -> str:
    """Return where a page's link leads in the site: that of a file of the repository to the file's page, all others as they are."""
    target, mark, anchor = link.partition("#")
    here = posixpath.dirname(page)
    path = (folder / here / unquote(target)).resolve()
    if not target or ":" in target or not path.is_relative_to(ROOT) or path.is_relative_to(folder) or not path.exists():
        return link  # mkdocs says what is wrong with it
    return posixpath.relpath(_page_of(path), here or ".") + mark + anchor


def _text(page: Any) -> str:
    return Path(page.abs_src_path).read_text("utf-8") if page.abs_src_path else ""


def _targets(markdown: str) -> list[str]:
    return [unquote(target.partition("#")[0]) for _, target in _LINK.findall(markdown) if ":" not in target and target.partition("#")[0]]


def _page_of(path: Path) -> str:
    """Return where a file of the repository stands in the site."""
    where = path.relative_to(ROOT).as_posix()
    return f"source/{where}/index.md" if path.is_dir() else f"source/{where.removesuffix('.md')}.md"


def _shown(path: Path) -> bool:
    return path.suffix in _LANGUAGES or path.name in ("Dockerfile", "Makefile")


def _source(path: Path) -> str:
    """Return the page of a file, or of a folder's files."""
    where = path.relative_to(ROOT).as_posix()
    hidden = "---\nsearch:\n  exclude: true\n---\n"
    if path.is_dir():
        rows = [
            f"- [{each.name}]({each.name.removesuffix('.md')}.md)" for each in sorted(path.iterdir()) if each.is_file() and _shown(each)
        ]
        return "\n".join([hidden, f"# {where}/", "", *rows])
    text = path.read_text("utf-8", errors="replace")
    lines = text.splitlines()
    more = [f"... {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    return "\n".join([hidden, f"# {where}", "", f"``````{_LANGUAGES.get(path.suffix, 'text')}", *lines[:_MOST_LINES], *more, "``````"])
