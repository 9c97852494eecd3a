"""pytest: fixtures that read golden files and check against them. A missing golden is an error, never a skip."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nplrp.golden.report import Report
    from nplrp.golden.values import Golden


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("nplrp", "golden values of Layer-wise Relevance Propagation")
    group.addoption("--lrp-goldens", metavar="DIR", default=None, help="where golden files are (default: goldens beside the test)")
    group.addoption(
        "--lrp-pictures", metavar="DIR", default=None, help="where reports that fail are drawn (default: in pytest's temporary folder)"
    )
    group.addoption(
        "--lrp-regen", action="store_true", help="write NAME.new.lrpgold.h5 beside each golden file, and fail until it is renamed"
    )


@pytest.fixture
def lrp_golden(request: pytest.FixtureRequest) -> Callable[[str], Golden]:
    """Return a function from a golden file's name, without its suffix, to what it holds."""

    def find(name: str) -> Golden:
        __tracebackhide__ = True
        from nplrp.golden.file import read

        path = _path(request, name)
        if not path.is_file():
            raise FileNotFoundError(f"there is no golden file {path}; record it: nplrp golden record ... -o {path.name}")
        return read(path)

    return find


@pytest.fixture
def lrp_check(request: pytest.FixtureRequest, lrp_golden: Callable[[str], Golden]) -> Callable[..., Report | None]:
    """Return a function (name, actual, regenerate=None, **options) that fails with the report, and its picture, if anything diverged.

    `actual` and the options are those of `nplrp.testing.assert_lrp_close`: arrays or a file, model=, names=, mode=, require_all=, fail_on=.
    `regenerate` is a function without arguments that records the golden values again; ``--lrp-regen`` calls it.
    """

    def compare(name: str, actual: Any, regenerate: Callable[[], Golden] | None = None, **options: Any) -> Report | None:
        __tracebackhide__ = True
        from nplrp.testing import assert_lrp_close

        if request.config.option.lrp_regen:
            if regenerate is None:
                pytest.fail(f"--lrp-regen: this test of {name!r} doesn't say how its golden values are recorded: give regenerate=")
            pytest.fail(_regenerated(_path(request, name), regenerate()), pytrace=False)
        golden = lrp_golden(name)
        options.setdefault("picture", _picture(request, name))
        return assert_lrp_close(actual, golden, **options)

    return compare


def _path(request: pytest.FixtureRequest, name: str) -> Path:
    folder = request.config.option.lrp_goldens
    return (Path(folder) if folder else request.path.parent / "goldens") / f"{name}.lrpgold.h5"


def _picture(request: pytest.FixtureRequest, name: str) -> Path:
    """Return where the report of a test is drawn if it fails; the folder is made."""
    folder = request.config.option.lrp_pictures
    test = re.sub(r"[^\w.-]+", "_", request.node.name)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return Path(folder) / f"{test}.{Path(name).name}.png"
    return Path(request.getfixturevalue("tmp_path")) / f"{Path(name).name}.png"


def _regenerated(path: Path, golden: Golden) -> str:
    """Write new golden values beside the old ones and say what differs."""
    from nplrp.golden.file import SUFFIX, read, write

    new = path.with_name(path.name.removesuffix(SUFFIX) + ".new" + SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(golden, new)
    if not path.is_file():
        return f"wrote {new}; there were no golden values before: look at it, then rename it"
    old, fresh = dict(read(path).arrays()), dict(golden.arrays())
    changed = [name for name in fresh if name not in old or old[name].tobytes() != fresh[name].tobytes()]
    if not changed:
        return f"wrote {new}: the same bits as before; delete it"
    return f"wrote {new}: {len(changed)} of {len(fresh)} arrays differ: {', '.join(changed[:6])}; look at it, then rename it"
