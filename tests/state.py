"""Find state that outlives a call, by the syntax tree: names of a module that hold something changeable, and whatever changes them.

`find_state` gives one line for each of

    global          a function that binds a name of its module anew
    cache           `functools.cache` and `lru_cache`, as a decorator or called
    changeable      a name of a module or class that holds something made to be changed: an empty container, a lock, an array, ...
    decorator       a decorator that may make such a thing of a function
    default         a function whose parameter's default is a list, dict or set
    write           whoever writes to what a name of a module holds: x[k] = v, del x[k], x.a = v, x.append(v), setattr(x, ...), also by
                    another name (y = x[k]; y.append(v))

A dict, list or set that has something in it when it is bound is a table: it is no state as long as nothing writes to it, and its own
module may write to it at import. What instances and a function's own variables hold ends with them.
"""

import ast
from pathlib import Path

#: Calls whose results can't be changed, or are tables.
HARMLESS = {
    *("tuple", "frozenset", "range", "int", "float", "str", "bytes", "bool", "type", "len", "max", "min", "sum", "sqrt", "dtype"),
    *("MappingProxyType", "TypeVar", "compile", "getLogger", "getenv", "get", "Path", "files", "joinpath"),
}
DECORATORS = {"dataclass", "property", "cached_property", "classmethod", "staticmethod", "contextmanager", "wraps", "overload", "setter"}
CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft", "put", "remove"),
    *("reverse", "rotate", "set", "setdefault", "sort", "update", "difference_update", "intersection_update", "fill", "setflags", "seed"),
    *("symmetric_difference_update", "__setitem__", "__delitem__", "__setattr__", "__delattr__", "acquire", "release"),
}
#: Methods and functions that give parts of what they are called on.
PARTS = {"values", "items", "get", "setdefault", "vars", "getattr", "iter", "reversed", "sorted"}
CACHES = {"cache", "lru_cache"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (*FUNCTIONS, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def find_in_package(folder, harmless=(), decorators=()):
    """Return what is found in all modules below a folder, sorted: ["module.py: write to x in f", ...]."""
    sources = {path: path.read_text() for path in sorted(Path(folder).rglob("*.py"))}
    modules = {path.stem for path in sources} | {path.parent.name for path in sources}
    known = {*harmless, *(name for text in sources.values() for name in _frozen_classes(ast.parse(text)))}
    return sorted({f"{path.name}: {line}" for path, text in sources.items() for line in find_state(text, known, decorators, modules)})


def find_state(source, harmless=(), decorators=(), modules=()):
    """Return what is found in a module's source, sorted: ["write to x in f", ...].

    Parameters
    ----------
    source : str
    harmless, decorators : names of calls and decorators that make nothing changeable, beside `HARMLESS` and `DECORATORS`
    modules : names that are modules where they are imported with ``from package import name``
    """
    tree = ast.parse(source)
    finder = _Finder(tree, {*HARMLESS, *harmless, *_frozen_classes(tree)}, {*DECORATORS, *decorators}, set(modules))
    finder.bindings(tree.body, "")
    finder.walk(tree, [], "")
    return sorted(finder.found)


def _frozen_classes(tree):
    """Return the names of classes whose instances can't be changed: named tuples, enumerations, frozen dataclasses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            frozen = any("frozen=True" in ast.unparse(decorator) for decorator in node.decorator_list)
            if frozen or any(_last_name(base) in ("NamedTuple", "Enum", "IntEnum", "StrEnum") for base in node.bases):
                yield node.name


def _last_name(node):
    """Return c of ``a.b.c``, ``a.b.c(...)`` and ``a.b.c[...]``, or ""."""
    while isinstance(node, (ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _root(node):
    """Return the name that ``a.b[c].d`` and ``a.values()`` begin with, or ""."""
    while not isinstance(node, ast.Name):
        if isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred)):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "globals":
            return "globals()"
        elif isinstance(node, ast.Call) and _last_name(node.func) in PARTS:
            node = node.func.value if isinstance(node.func, ast.Attribute) else (node.args or [node.func])[0]
        else:
            return ""
    return node.id


class _Finder:
    def __init__(self, tree, harmless, decorators, modules):
        self.harmless, self.decorators, self.found = harmless, decorators, set()
        self.imported = set()  # names that are modules
        self.caches = {"cache": set(), "functools": set()}  # names of cache and lru_cache, and of functools itself
        self.own = set(_bound(tree)[0]) | {"globals()"}
        for node in ast.walk(tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                self.own.add(name)  # what a function imports belongs to a module as well
                if isinstance(node, ast.Import) or alias.name in modules:
                    self.imported.add(name)
                if isinstance(node, ast.ImportFrom) and node.module == "functools" and alias.name in CACHES:
                    self.caches["cache"].add(name)
                if isinstance(node, ast.Import) and alias.name == "functools":
                    self.caches["functools"].add(name)

    def bindings(self, body, owner):
        """Look at what a module's or a class's names are bound to."""
        for node in body:
            if isinstance(node, ast.ClassDef):
                self.bindings(node.body, f"{owner}{node.name}.")
            elif not isinstance(node, FUNCTIONS):
                for below in ("body", "orelse", "finalbody", "handlers", "cases"):
                    self.bindings(getattr(node, below, []), owner)
                for target, value in _assignments(node):
                    if isinstance(target, ast.Name) and self.changeable(value, bool(owner)):
                        self.found.add(f"changeable {owner}{target.id}")

    def changeable(self, value, in_class):
        """Tell whether a value is made to be changed; a class's fields may be described by any call."""
        if isinstance(value, ast.Dict):
            return not value.keys
        if isinstance(value, (ast.List, ast.Set)):
            return not value.elts
        if isinstance(value, ast.Call):
            name = _last_name(value.func)
            if name in ("dict", "list", "set"):
                return not (value.args or value.keywords)
            return not in_class and name not in self.harmless and not self.is_cache(value.func)
        if isinstance(value, (ast.Tuple, ast.BoolOp, ast.IfExp, ast.NamedExpr, ast.GeneratorExp)):
            parts = [getattr(value, key, None) for key in ("body", "orelse", "value", "elt")]
            parts += getattr(value, "elts", None) or getattr(value, "values", None) or []
            return any(self.changeable(part, in_class) for part in parts)
        return False

    def is_cache(self, function):
        while isinstance(function, ast.Call):
            function = function.func
        if isinstance(function, ast.Attribute):
            return function.attr in CACHES and _root(function) in self.caches["functools"]
        return isinstance(function, ast.Name) and function.id in self.caches["cache"]

    def walk(self, node, scopes, function):
        """Look at a node and all below; `scopes` are what the functions around it bind, `function` is the innermost, "" at import."""
        if isinstance(node, ast.Global):
            self.found |= {f"global {name} in {function}" for name in node.names}
        if isinstance(node, ast.Call):
            self.call(node, scopes, function)
        for target in _parts_written(node):
            at_home = not function and isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name)
            if not at_home or target.value.id in self.imported:
                self.write(target, scopes, function)
        outside = list(getattr(node, "decorator_list", []))
        for decorator in outside:
            if self.is_cache(decorator):
                self.found.add(f"cache {node.name}")
            elif isinstance(node, FUNCTIONS) and _last_name(decorator) not in self.decorators:
                self.found.add(f"decorator {_last_name(decorator)}")
        if isinstance(node, FUNCTIONS):
            defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            if any(isinstance(each, (ast.Dict, ast.List, ast.Set)) or _last_name(each) in ("dict", "list", "set") for each in defaults):
                self.found.add(f"default of {getattr(node, 'name', 'lambda')}")
            outside += defaults
        inner = [*scopes, _bound(node)] if isinstance(node, SCOPES) else scopes
        name = getattr(node, "name", "lambda") if isinstance(node, FUNCTIONS) else function
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.arguments) and child not in outside:
                self.walk(child, inner, name)
        for each in outside:
            for child in ast.iter_child_nodes(each) if self.is_cache(each) else [each]:
                self.walk(child, scopes, function)

    def call(self, node, scopes, function):
        """Look for caches that are called, and for methods and functions that change what they are given."""
        name = _last_name(node.func)
        if self.is_cache(node.func):
            self.found.add(f"cache called in {function or 'the module'}")
        elif isinstance(node.func, ast.Name) and name in ("setattr", "delattr") and node.args:
            self.write(node.args[0], scopes, function)
        elif isinstance(node.func, ast.Attribute) and name in CHANGES:
            receiver = node.func.value
            of_module = isinstance(receiver, ast.Name) and receiver.id in self.imported  # a function of that name
            if not of_module and (function or not isinstance(receiver, ast.Name)):
                self.write(receiver, scopes, function)

    def write(self, target, scopes, function):
        name = _root(target)
        for names, aliases in reversed(scopes):
            if name in aliases:
                name = aliases[name]
            elif name in names:
                return
        if name in self.own:
            self.found.add(f"write to {name} in {function or 'the module'}")


def _assignments(node):
    """Yield (target, value) of one statement, tuples taken apart."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.NamedExpr):
        node = node.value
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    value = getattr(node, "value", None)
    for target in targets if value is not None else ():
        if isinstance(target, (ast.Tuple, ast.List)):
            values = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value] * len(target.elts)
            yield from zip(target.elts, values, strict=False)
        else:
            yield target, value


def _parts_written(node):
    """Return what a statement stores to beyond plain names: x[k] and x.a."""
    if isinstance(node, (ast.Assign, ast.Delete)):
        targets = list(node.targets)
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For, ast.AsyncFor, ast.comprehension)):
        targets = [node.target]
    else:
        targets = [node.optional_vars] if isinstance(node, ast.withitem) else []
    parts = []
    while targets:
        target = targets.pop()
        if isinstance(target, (ast.Tuple, ast.List)):
            targets += target.elts
        elif isinstance(target, (ast.Subscript, ast.Attribute)):
            parts.append(target)
    return parts


def _bound(scope):
    """Return the names that a scope binds itself, and {name: root} of those that only stand for (parts of) something else."""
    names, shared, roots = set(), set(), {}
    if isinstance(scope, FUNCTIONS):
        arguments = scope.args
        each = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
        names |= {argument.arg for argument in each if argument}
    pending = list(ast.iter_child_nodes(scope))
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, SCOPES):
            continue
        pairs = list(_assignments(node))
        if isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            targets = node.target.elts if isinstance(node.target, (ast.Tuple, ast.List)) else [node.target]
            pairs = [(target, node.iter) for target in targets]
        for target, value in pairs:
            if isinstance(target, ast.Name):
                roots.setdefault(target.id, set()).add("" if isinstance(node, ast.AugAssign) else _root(value))
        if isinstance(node, ast.Global):
            shared |= set(node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            names.add(node.name)
        pending += ast.iter_child_nodes(node)
    aliases = {name: found.copy().pop() for name, found in roots.items() if len(found) == 1 and "" not in found and name not in found}
    return names - shared, {name: root for name, root in aliases.items() if root not in names}
