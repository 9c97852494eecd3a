"""Rules of the house that no linter knows."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.state import find_in_package, find_state

ROOT = Path(__file__).parent.parent


def test_readme_shows_the_page():
    page = (ROOT / "nplrp" / "lrp.py").read_text()
    readme = (ROOT / "README.md").read_text()
    block = readme.split("## The four lines")[1].split("```python\n")[1].split("```")[0]
    lines = block.splitlines()
    assert [line.split("#")[1].split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert block in page


def loaded_modules(code):
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_import_is_light():
    modules = loaded_modules("import nplrp; nplrp.__version__")
    assert not modules & {"numpy", "numba", "h5py", "PIL", "matplotlib"}


@pytest.mark.parametrize(
    ("code", "needless"),
    [
        ("import nplrp.cli; nplrp.cli.make_parser()", {"numpy", "numba", "h5py", "PIL", "matplotlib"}),
        ("import nplrp; nplrp.load", {"numba", "PIL", "matplotlib"}),
        ("import nplrp; nplrp.preprocess", {"numba", "h5py", "matplotlib"}),
        ("import nplrp; nplrp.explain", {"numba", "h5py", "PIL", "matplotlib"}),
    ],
)
def test_commands_import_what_they_need(code, needless):
    assert not loaded_modules(code) & needless


@pytest.mark.parametrize("package", ["nplrp", "nplrp.golden", "nplrp.evaluate"])
def test_every_public_name_exists(package):
    package = importlib.import_module(package)
    for name in package.__all__:
        assert getattr(package, name) is not None
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not modules & set(package.__all__), "a module of the same name would hide the public one once it is imported"
    with pytest.raises(AttributeError, match="no attribute 'explane'"):
        package.explane  # noqa: B018


# --- no state that outlives a call -----------------------------------------------------------------------------------

#: Functions whose results can't be changed, though their names don't say so.
HARMLESS = {
    "IntType": "a type of LLVM's",
    "as_pointer": "a type of LLVM's",
    "vector_bits": "a number",
    "replace": "another frozen value",
    "errstate": "settings that are set anew for each call",
    "_numbers": "a tuple of numbers",
    "_rows": "a table of functions to compile, which nobody writes to",
    "_loop_with_array": "a function to compile",
    "mover": "a frozen value",
    "_Later": "a module that is imported when it is needed",
    "_make_add_rows": "a function to compile",
    "_make_finish": "a function to compile",
    "make_microkernel": "a function to compile",
    "names_of": "two functions",
}
DECORATORS = {
    "kernel": "holds compiled code by types of arguments, behind a lock",
    "shared_kernel": "holds compiled code by types of arguments, behind a lock",
    "intrinsic": "holds what Numba makes of it",
    "queueable": "marks a function",
    "asynccontextmanager": "the standard library's",
    "fixture": "pytest's",
    "_OVERFLOWING": "NumPy's errstate: sets how overflows are told, for a call",
}
_MACHINE = "asks the machine or the environment once: neither changes while a process runs"
_TABLE = "a function of its arguments alone, of which there are few"
_COMPILER = "what a process needs one of, to compile and to link"
_ENVIRONMENT = "a variable that a library reads when it is first imported, set by a program's main function"
_MAPPINGS = "what a handler of a signal, which has no arguments of ours, has to know of files that are mapped"
_SERIES = ("density", "erf", "exp", "exp_rest", "log", "middle", "shrink", "tail_n", "tail_p")
#: Everything else that outlives a call, and why it may.
STATE = {
    "team.py: changeable lock": "the one lock of the kernels: a team has all cores",
    "team.py: changeable _orphaned": "a process that was forked off can't use OpenMP",
    "team.py: write to _orphaned in _forked": "a process that was forked off can't use OpenMP",
    "team.py: cache openmp": _MACHINE,
    "workspace.py: changeable _room_lock": "one thread looks at what is held",
    "team.py: changeable loading": "one thread compiles and links",
    "team.py: changeable _forking": "the locks that a fork holds while it is under way",
    "team.py: write to _forking in _before_fork": "the locks that a fork holds while it is under way",
    "team.py: write to _forking in _after_fork": "the locks that a fork holds while it is under way",
    "team.py: write to _forking in _forked": "the locks that a fork holds while it is under way",
    "team.py: cache yield_address": _MACHINE,
    "crew.py: cache _compiled": _COMPILER,
    "team.py: cache cores": _MACHINE,
    "queue.py: changeable _state": "each thread's queue of kernels, while it is noted down",
    "queue.py: write to _state in __init__": "each thread's queue of kernels, while it is noted down",
    "queue.py: write to _state in __enter__": "each thread's queue of kernels, while it is noted down",
    "queue.py: write to _state in __exit__": "each thread's queue of kernels, while it is noted down",
    "queue.py: write to _state in at_once": "each thread's queue of kernels, while it is noted down",
    "queue.py: write to _state in checked_queues": "whether a test has its queues checked",
    "arguments.py: cache _array_kind": _TABLE,
    "arguments.py: cache _number_kinds": _TABLE,
    "epilogue.py: cache _unused": _TABLE,
    "ties.py: cache _net": _TABLE,
    "cache.py: changeable _told": "folders that were said not to be used",
    "cache.py: write to _told in _refuse": "folders that were said not to be used",
    "cache.py: cache cache_directory": _MACHINE,
    "cache.py: cache _places": _MACHINE,
    "cache.py: cache _readable": _MACHINE,
    "cache.py: cache _settings": _MACHINE,
    "cache.py: cache _stamp": "hashes of source files, which don't change while a process runs",
    "cache.py: cache _sources": "hashes of source files, which don't change while a process runs",
    "cache.py: cache _announce": "says once in a process that it compiles",
    "cache.py: cache _callbacks": "who is called at the first kernel that has to be compiled",
    "innvestigate_backend.py: write to base_layer_utils in the module": "a switch of Keras's, in a process of its own",
    "cache.py: changeable _BEGUN": "what a process has begun to compile",
    "cache.py: changeable _announcing": "one thread says that it compiles",
    **{
        f"depthwise.py: changeable _{name}": "a function to compile"
        for name in ("one", "one_of_4", "one_of_8", "some", "some_of_4", "some_of_8")
    },
    **{f"operators.py: changeable _{name}": "a function that reads" for name in ("maximum", "minimum")},
    "scale.py: changeable _CLASSES": "a table of functions that read, which nobody writes to",
    **{f"elementary.py: changeable _{name}": "a function to compile" for name in _SERIES},
    "bus.py: cache _installed": "a process has one handler of each signal",
    **{f"bus.py: changeable {name}": _MAPPINGS for name in ("_free", "_known", "_last", "_noting", "_said")},
    **{f"bus.py: write to {name}": _MAPPINGS for name in ("_free in _forget", "_free in watch", "_known in watch", "_last in watch")},
    "cut.py: write to plain in telling": "who is told of files that are mapped, while a command runs",
    "plain.py: changeable mapped": "who is told of files that are mapped, while a command runs",
    "target.py: cache _linker": _COMPILER,
    "target.py: cache cpu": _MACHINE,
    "target.py: cache machine": _COMPILER,
    "target.py: cache vector_bits": _MACHINE,
    "activations.py: cache _loop": "a function to compile",
    "activations.py: cache activation": _TABLE,
    "heatmaps.py: cache _colours": _TABLE,
    "thumbnails.py: cache palette": _TABLE,
    "heatmaps.py: cache typeface": _TABLE,
    "answers.py: cache versions": _MACHINE,
    "lazy.py: write to sys in __getattr__": "a public name is imported when it is first asked for",
    "cli.py: write to os in _run": _ENVIRONMENT,
    "cli.py: write to warnings in _listen": "the command line prints warnings in its own way",
    "commands.py: write to os in run_serve": _ENVIRONMENT,
    "workers.py: write to os in supervise": _ENVIRONMENT,
    "innvestigate_backend.py: write to os in the module": "a script for another interpreter",
    "zennit_backend.py: write to torch in the module": "a script for another interpreter",
    "ask.py: write to sys in the module": "a script for another interpreter",
    "backends.py: write to sys in _here": "where a backend's module is looked for, while it is imported",
    "suite.py: cache load": "the package's file, which doesn't change while a process runs",
}


def test_no_state_outlives_a_call_but_what_is_listed():
    found = set(find_in_package(ROOT / "nplrp", HARMLESS, DECORATORS))
    assert sorted(found - set(STATE)) == [], "state that isn't listed: do without, or list it with a reason"
    assert sorted(set(STATE) - found) == [], "listed, but no longer there"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = {}", "changeable x"),
        ("x: dict[str, int] = {}", "changeable x"),
        ("x = []", "changeable x"),
        ("x = set()", "changeable x"),
        ("x = dict()", "changeable x"),
        ("x, y = 1, []", "changeable y"),
        ("x = y = list()", "changeable x"),
        ("(x := [])", "changeable x"),
        ("x = None or {}", "changeable x"),
        ("x = ({}, 1)", "changeable x"),
        ("if 1:\n    x = []", "changeable x"),
        ("try:\n    pass\nexcept OSError:\n    x = []", "changeable x"),
        ("import threading\nx = threading.Lock()", "changeable x"),
        ("import itertools\nx = itertools.count()", "changeable x"),
        ("import numpy as np\nx = np.zeros(3)", "changeable x"),
        ("from collections import defaultdict\nx = defaultdict(list)", "changeable x"),
        ("class A:\n    pass\nx = A()", "changeable x"),
        ("class A:\n    x: list = []", "changeable A.x"),
        ("class A:\n    x = dict()", "changeable A.x"),
        ("def f():\n    global x\n    x = 1", "global x in f"),
        ("class A:\n    def f(self):\n        def g():\n            global x", "global x in g"),
        ("import functools\n@functools.cache\ndef f(): pass", "cache f"),
        ("import functools as tools\n@tools.lru_cache(maxsize=1)\ndef f(): pass", "cache f"),
        ("from functools import lru_cache\n@lru_cache\ndef f(): pass", "cache f"),
        ("from functools import cache as keep\nclass A:\n    @keep\n    def f(self): pass", "cache f"),
        ("from functools import cache\nx = cache(print)", "cache called in the module"),
        ("import functools\nx = functools.lru_cache(maxsize=None)(print)", "cache called in the module"),
        ("@keep\ndef f(): pass", "decorator keep"),
        ("def f(x=[]): pass", "default of f"),
        ("def f(*, x={}): pass", "default of f"),
        ("f = lambda x=dict(): x", "default of lambda"),
        ("x = [1]\ndef f(): x[0] = 2", "write to x in f"),
        ("x: list[int] = [1]\ndef f(): x[0] += 2", "write to x in f"),
        ("x = [1]\ndef f(): del x[0]", "write to x in f"),
        ("x = [1]\ndef f(): x.append(2)", "write to x in f"),
        ("x = {1}\ndef f(): x.add(2)", "write to x in f"),
        ("x = {1: {}}\ndef f(): x[1][2] = 3", "write to x in f"),
        ("x = {1: []}\ndef f(): x[1].append(3)", "write to x in f"),
        ("x = {1: []}\ndef f(): x.setdefault(2, 3)", "write to x in f"),
        ("x = {1: 2}\ndef f(): a, x[1] = 3, 4", "write to x in f"),
        ("x = {1: 2}\ndef f():\n    for x[1] in range(3): pass", "write to x in f"),
        ("x = {1: 2}\ndef f():\n    with open('a') as x[1]: pass", "write to x in f"),
        ("x = {i: [] for i in range(3)}\ndef f():\n    y = x[1]\n    y.append(2)", "write to x in f"),
        ("x = {1: []}\ndef f():\n    for key, y in x.items(): y.append(key)", "write to x in f"),
        ("x = {1: 2}\nf = lambda: x.clear()", "write to x in lambda"),
        ("x = {1: 2}\ndef f():\n    def g(): x.clear()", "write to x in g"),
        ("x = {1: 2}\nclass A:\n    def f(self): x.clear()", "write to x in f"),
        ("def f(): f.calls = 1", "write to f in f"),
        ("class A:\n    def f(self): A.calls += 1", "write to A in f"),
        ("def f(): setattr(f, 'calls', 1)", "write to f in f"),
        ("def f(): globals()['x'] = 1", "write to globals() in f"),
        ("import os\ndef f(): os.environ['x'] = '1'", "write to os in f"),
        ("import os\nos.environ.update(x='1')", "write to os in the module"),
        ("from a import x\ndef f(): x.update({})", "write to x in f"),
        ("from a import m\nm.x = 1", "write to m in the module"),
        ("def f():\n    from a import x\n    x[1] = 2", "write to x in f"),
    ],
)
def test_every_form_of_state_is_seen(source, found):
    assert found in find_state(source, modules=["m"])


@pytest.mark.parametrize(
    "source",
    [
        "x = {1: 2}\nx[3] = 4\nx.update(y=5)",
        "x: tuple[int, ...] = ()",
        "x = (1, 2) if 3 else None",
        "from types import MappingProxyType\nx = MappingProxyType({})",
        "import re\nx = re.compile('a')",
        "from typing import NamedTuple\nclass A(NamedTuple):\n    a: int\nx = A(1)",
        "from dataclasses import dataclass, field\n@dataclass(frozen=True)\nclass A:\n    a: dict = field(default_factory=dict)\nx = A()",
        "x = {1: 2}\ndef f(x): x[1] = 3",
        "x = {1: 2}\ndef f():\n    x = {}\n    x[1] = 3",
        "x = {1: 2}\ndef f():\n    y = dict(x)\n    y[1] = 3",
        "x = {1: 2}\ndef f():\n    for x in [[]]: x.append(1)",
        "x = {1: 2}\ndef f(): return [x.append(1) for x in [[]]]",
        "x = {1: 2}\ndef f():\n    x = []\n    def g(): x.append(1)",
        "class A:\n    def f(self): self.x = []\n    def g(self): self.x.append(1)",
        "import numpy as np\ndef f(): return np.add(1, 2), np.sort([1])",
        "from a import m\ndef f(): return m.add(1)",
        "import functools\nclass A:\n    @functools.cached_property\n    def f(self): pass",
    ],
)
def test_what_ends_with_the_call_is_no_state(source):
    assert find_state(source, modules=["m"]) == []
