"""What the source of a module depends on: every module of its package, and of nplrp, that it imports, directly or not.

Imports are read from syntax trees: in all their forms, inside functions too, but for those below ``if TYPE_CHECKING``, which never run. To
import a.b.c runs the `__init__` of a and of a.b, so these count as well. Imports by a computed name aren't seen; other packages aren't
followed.
"""

import ast
import hashlib
import math
import sys
import threading
import time
from pathlib import Path


class Sources:
    """Sources of modules, each read once.

    Parameters
    ----------
    known : dict, optional
        Digest of a source -> its `imports`, from an earlier process: parsing takes longer than everything else here.
    keep : callable, optional
        Called with the dict once more is known.
    since : float, optional
        When this process began to import modules: a source that was edited later isn't what it runs.
    """

    def __init__(self, known=None, keep=lambda known: None, since=math.inf):
        self._known, self._keep, self._since = dict(known or {}), keep, since
        self._folders, self._modules, self._lock = {}, {}, threading.Lock()

    def stamp(self, *modules):
        """Return a hash of the sources of modules and of all that they depend on.

        Raises
        ------
        OSError
            If that can't be told: a module has no source in a package, or it was edited.
        """
        return hashlib.sha256(repr(sorted(self.reach(*modules).items())).encode()).hexdigest()

    def reach(self, *modules):
        """Return {module: digest of its source} of modules and of all that they depend on; raises as `stamp`."""
        roots = {"nplrp", *(module.partition(".")[0] for module in modules)}
        with self._lock:
            before, reached, todo = len(self._known), {}, list(modules)
            while todo:
                module = todo.pop()
                if module not in reached:
                    reached[module], imported = self._read(module)
                    todo += [name for name in imported if name.partition(".")[0] in roots]
            if len(self._known) > before:
                self._keep(self._known)
        return reached

    def _read(self, module):
        """Return a module's digest, and the modules that importing it imports; no digest for a folder without `__init__`."""
        if module not in self._modules:
            file, is_package = self._find(module)
            parents = [module.rpartition(".")[0]] if "." in module else []
            if file is None:
                self._modules[module] = None, parents
            else:
                if self._since < file.stat().st_mtime <= time.time():  # a time to come is no edit
                    raise OSError(f"{file} was edited")
                source = file.read_bytes()
                digest = hashlib.sha256(source).hexdigest()
                if digest not in self._known:
                    self._known[digest] = imports(source)
                package = module if is_package else module.rpartition(".")[0]
                self._modules[module] = digest, parents + [name for each in self._known[digest] for name in self._targets(package, *each)]
        return self._modules[module]

    def _targets(self, package, level, name, names):
        """Yield the modules that ``from <level dots><name> import <names>`` in a package imports."""
        if level:
            above = package.split(".")[: len(package.split(".")) - level + 1]
            name = ".".join([*above, name] if name else above)
        yield name
        for each in names:
            inside = [entry.removesuffix(".py") for entry in self._folder(name)] if each == "*" else [each]
            yield from (f"{name}.{part}" for part in inside if part != "__init__" and self._is_module(name, part))

    def _find(self, module):
        """Return the file of a module, None for a folder without `__init__`, and whether it is a package."""
        parent, _, name = module.rpartition(".")
        inside = self._folder(module)
        if inside:
            return inside.get("__init__.py"), True
        file = self._folder(parent).get(f"{name}.py")
        if file is None:
            raise FileNotFoundError(f"{module} has no source in a package")
        return file, False

    def _is_module(self, package, name):
        inside = self._folder(package)
        return f"{name}.py" in inside or (name in inside and bool(self._folder(f"{package}.{name}")))

    def _folder(self, package):
        """Return name -> path of what is in a package's folders; nothing if it is no package."""
        if package not in self._folders:
            parent, _, name = package.rpartition(".")
            if parent:
                path = self._folder(parent).get(name)
                folders = [path] if path is not None and path.is_dir() else []
            else:
                folders = [Path(folder) for folder in getattr(sys.modules.get(package), "__path__", ())]
            self._folders[package] = {path.name: path for folder in reversed(folders) for path in folder.iterdir()}
        return self._folders[package]


def imports(source):
    """Return what a source imports: a list of [level, module, names], as in ``from <level dots><module> import <names>``.

    Parameters
    ----------
    source : bytes
    """
    found = {}
    todo = list(ast.parse(source).body)
    for node in todo:
        if isinstance(node, ast.Import):
            found.update(((0, alias.name, ()), None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found[node.level, node.module or "", tuple(alias.name for alias in node.names)] = None
        else:  # only what holds statements: an import is one
            parts = ("orelse",) if _only_for_types(node) else ("body", "orelse", "finalbody", "handlers", "cases")
            for part in parts:
                todo += getattr(node, part, ())
    return [[level, name, list(names)] for level, name, names in found]


def _only_for_types(node):
    return isinstance(node, ast.If) and getattr(node.test, "attr", getattr(node.test, "id", None)) == "TYPE_CHECKING"
