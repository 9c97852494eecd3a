"""A kernel is compiled again whenever a file changes that it depends on, however it imports it; and only then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nplrp.jit.dependencies import Sources, imports

ROOT = Path(__file__).parents[2]

#: A package of kernels: in each of its modules one constant of the kernel's sum.
TINY = {
    "__init__.py": "INIT = 1",
    "kernels.py": """
from typing import TYPE_CHECKING
import tiny.plain as renamed
from nplrp.jit import kernel
from tiny import INIT
from tiny.direct import (
    DIRECT,
    INDIRECT,
    LATE,
)
from .sub import INNER, SUB, level
if TYPE_CHECKING:
    from tiny import types_only
try:
    from tiny import attempt
except ImportError:
    attempt = None

@kernel
def total(x):
    return x + INIT + DIRECT + INDIRECT + LATE + INNER + SUB + _level + _plain + _attempt

_level, _plain, _attempt = level.LEVEL, renamed.PLAIN, attempt.ATTEMPT
""",
    "plain.py": "PLAIN = 1",
    "direct.py": """
import numpy as np
from tiny.indirect import INDIRECT
DIRECT = 1

def _late():
    with np.errstate(all="ignore"):
        from tiny.late import LATE
        return LATE

LATE = _late()
""",
    "indirect.py": "INDIRECT = 1",
    "late.py": "LATE = 1",
    "attempt.py": "ATTEMPT = 1",
    "sub/__init__.py": "from .inner import *\nfrom .. import other_level as level\nSUB = 1",
    "sub/inner.py": "INNER = 1",
    "other_level.py": "LEVEL = 1",
    "types_only.py": "NOTHING = 1",
    "unrelated.py": "NOTHING = 1",
}
RUN = """
import sys
sys.path.insert(0, {folder!r})
from tiny.kernels import total
{before}
print(int(total(1000)), int("numba" in sys.modules))
"""


def write(package, files):
    for name, source in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)


def run(folder, before="", code=RUN):
    """Call the kernel in a new process; return its result and whether it was compiled."""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    code = code.format(folder=str(folder), before=before)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with the package and its cache."""
    folder = tmp_path_factory.mktemp("compiled")
    write(folder / "tiny", TINY)
    assert run(folder) == (1009, 1)
    return folder


@pytest.fixture
def folder(compiled, tmp_path):
    return shutil.copytree(compiled, tmp_path / "copy")


@pytest.mark.parametrize(
    "file",
    ["__init__", "plain", "direct", "indirect", "late", "attempt", "sub/__init__", "sub/inner", "other_level"],
)
def test_an_edit_in_what_it_imports_compiles_it_again(folder, file):
    source = folder / "tiny" / f"{file}.py"
    source.write_text(source.read_text().replace("= 1", "= 5"))
    assert run(folder) == (1013, 1)
    assert run(folder) == (1013, 0)
    source.write_text(source.read_text().replace("= 5", "= 1"))
    assert run(folder) == (1009, 0), "what was compiled before is still there"


def test_nothing_is_compiled_again_without_need(folder):
    assert run(folder) == (1009, 0)
    for file in ("types_only", "unrelated"):
        (folder / "tiny" / f"{file}.py").write_text("NOTHING = 5")
    (folder / "tiny" / "new.py").write_text("")
    assert run(folder) == (1009, 0)


def test_a_module_that_appears_counts(folder):
    """A package hides a module of the same name."""
    write(folder / "tiny", {"indirect/__init__.py": "INDIRECT = 5"})
    assert run(folder) == (1013, 1)


def test_an_edit_of_a_module_that_is_loaded_keeps_nothing(folder):
    """The code is that of the source before, the file says something else."""
    edit = "open({!r}, 'w').write('INDIRECT = 5')".format(str(folder / "tiny" / "indirect.py"))
    assert run(folder, edit) == (1009, 1)
    assert run(folder) == (1013, 1)


def test_a_time_to_come_is_no_edit(folder):
    source = folder / "tiny" / "indirect.py"
    source.write_text("INDIRECT = 5")
    os.utime(source, (2**32, 2**32))
    assert run(folder) == (1013, 1)
    assert run(folder) == (1013, 0)


def test_what_is_known_is_not_parsed_again(folder):
    count = """
from nplrp.jit import dependencies
parsed = []
original = dependencies.imports
dependencies.imports = lambda source: (parsed.append(source), original(source))[1]
import atexit
atexit.register(lambda: print(len(parsed)))
"""
    assert run(folder, count) == (1009, 0, 0)
    (folder / "tiny" / "indirect.py").write_text("INDIRECT = 5")
    assert run(folder, count) == (1013, 1, 1)
    assert run(folder, count) == (1013, 0, 0)


def test_modules_of_equal_names_in_different_packages(tmp_path):
    source = "from nplrp.jit import kernel\nfrom .value import VALUE\n@kernel\ndef total(x):\n    return x + VALUE\n"
    for package, value in (("first", 1), ("second", 2)):
        write(tmp_path / package, {"__init__.py": "", "kernels.py": source, "value.py": f"VALUE = {value}"})
    code = """
import sys
sys.path.insert(0, {folder!r})
from first.kernels import total as first
from second.kernels import total as second
from nplrp.jit import cache
{before}
print(int(first(0)), int(second(0)), int("numba" in sys.modules))
"""
    assert run(tmp_path, code=code) == (1, 2, 1)
    assert run(tmp_path, code=code) == (1, 2, 0)
    assert run(tmp_path, "cache.forget(second._function); second(0); assert 'numba' in sys.modules", code) == (1, 2, 1)
    assert run(tmp_path, "cache.forget(second._function); first(0); assert 'numba' not in sys.modules", code) == (1, 2, 1)


def test_what_no_source_tells_is_not_kept(tmp_path):
    """Closures, and modules outside any package."""
    code = """
import sys
sys.path.insert(0, {folder!r})
{before}
print(int(total(0)), int("numba" in sys.modules))
"""
    write(tmp_path, {"alone.py": "from nplrp.jit import kernel\n@kernel\ndef total(x):\n    return x + 3\n"})
    for _ in range(2):
        assert run(tmp_path, "from alone import total", code) == (3, 1)
    maker = "from nplrp.jit import kernel\ndef make(k):\n    @kernel\n    def total(x):\n        return x + k\n    return total\n"
    write(tmp_path / "tiny", {"__init__.py": "", "maker.py": maker})
    for k in (4, 5):
        assert run(tmp_path, f"from tiny.maker import make; total = make({k})", code) == (k, 1)


def test_nothing_that_kernels_load_is_missed(tmp_path):
    """What a process has loaded of nplrp after compiling and running kernels, directly and from a queue."""
    code = """
import sys
import numpy as np
from nplrp.jit import Queue
from nplrp.kernels import conv, elementwise
x = np.ones(10)
with Queue() as queue:
    elementwise.multiply(x, x, np.empty(10))
queue.run()
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "nplrp"))
"""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"nplrp.jit.compiler", "nplrp.jit.barrier", "nplrp.kernels.winograd_conv"} <= loaded
    reached = set(Sources().reach("nplrp.kernels.conv", "nplrp.kernels.elementwise"))
    assert loaded <= reached
    assert reached - loaded == {"nplrp.jit.sanitizer"}, "the debug mode is loaded by nobody else"


@pytest.mark.parametrize("path", sorted((ROOT / "nplrp" / "kernels").glob("*.py")), ids=lambda path: path.stem)
def test_each_kernel_module_depends_on_what_it_loads(path):
    module = "nplrp.kernels" if path.stem == "__init__" else f"nplrp.kernels.{path.stem}"
    code = f'import sys, {module}; print(*(name for name in sys.modules if name.partition(".")[0] == "nplrp"))'
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    reached = Sources().reach(module)
    assert set(done.stdout.split()) <= set(reached)
    assert not {name.split(".")[1] for name in reached if "." in name} - {"kernels", "jit", "cache", "lazy"}, (
        "arrays only, beside what `import nplrp` takes"
    )


def test_forms_of_imports():
    source = b"""
import a, b.c as d
from . import e
from ..f import (g,
    h as i)
from j import *
class K:
    async def l(self):
        match self:
            case 1:
                import m
        try:
            pass
        except ValueError:
            import n
        else:
            import o
        finally:
            import p
import typing
if typing.TYPE_CHECKING:
    import q
else:
    import r
while True:
    for s in []:
        import s
"""
    found = imports(source)
    assert {name for level, name, names in found if not names} == set("amnoprs") | {"b.c", "typing"}
    assert [each for each in found if each[2]] == [[1, "", ["e"]], [2, "f", ["g", "h"]], [0, "j", ["*"]]]
