"""The command line of the suite: `nplrp conformance` and `nplrp golden identify`; each imports only what it needs."""

from __future__ import annotations

import argparse
from typing import Any

from nplrp.golden.errors import PASSED, GoldenError
from nplrp.usage import Parser


def add_commands(commands: Any) -> None:
    """Add ``conformance`` to the parser of all commands."""
    suite = Parser(add_help=False)
    suite.add_argument("--dialect", "-d", metavar="D", help="whose constants and answers; default: the library's own, else nplrp's")
    suite.add_argument("--precision", default="float32", metavar="P", help="float32 (default) or float64: what the backend computes in")
    suite.add_argument("--only", "-k", metavar="PATTERN", action="append", default=[], help="cases to ask, such as 'gamma*.conv-*.z-zero'")
    suite.add_argument(
        "--backend",
        "-b",
        metavar="B",
        help="zennit, captum, innvestigate or lxt; nplrp; module:object, a function in Python; exec:COMMAND, run as COMMAND IN OUT",
    )
    suite.add_argument("--python", metavar="PATH", help="the interpreter that has the library; default: this one")
    command = commands.add_parser(
        "conformance",
        parents=[suite],
        help="run the conformance suite against an implementation of LRP",
        description="Small, hard cases of every rule on every kind of layer, judged by derived tolerances. Exit codes: 0 all answers pass, "
        "1 one fails, 2 usage or bad file, 4 there is no answer.",
    )
    command.add_argument("answers", metavar="ANSWERS", nargs="?", help="a folder of answers (docs/verify-your-own-backend.md), or .npz")
    command.add_argument("--export", metavar="DIR", help="write the cases, for any language")
    command.add_argument("--to", default="raw", metavar="F", help="with --export: raw (default), a folder of numbers a case, or npz")
    command.add_argument("--list", action="store_true", help="print the names of the cases")
    command.add_argument("--xfails", metavar="FILE", help="names or patterns of cases that are expected to fail, one a line; # begins a comment")
    command.add_argument("--require-all", action="store_true", help="a case without an answer fails")
    command.add_argument("--json", metavar="FILE", help="also write the results as JSON; - for standard output")
    command.add_argument("--junit", metavar="FILE", help="also write them as JUnit XML")
    command.set_defaults(run=run_conformance)


def run_conformance(arguments: argparse.Namespace) -> int:
    """Export, list, or judge answers to the suite."""
    from nplrp.conformance.backends import dialect_of
    from nplrp.conformance.exporting import export
    from nplrp.conformance.running import judged, read_xfails
    from nplrp.conformance.suite import load

    _check(arguments)
    dialect = dialect_of(arguments.backend or "", arguments.dialect)
    suite = load().only(arguments.only, dialect)
    if arguments.list:
        print("\n".join(case.name for case in suite))
        return PASSED
    if arguments.export:
        count = export(suite, arguments.export, dialect, arguments.precision, arguments.to)
        print(f"wrote {count} cases in dialect {dialect} to {arguments.export}")
        return PASSED
    xfails = read_xfails(arguments.xfails) if arguments.xfails else ()
    said, name = said_to(arguments, suite, dialect)
    outcome = judged(
        suite, said, dialect, arguments.precision, backend=name, xfails=xfails, all_required=arguments.require_all
    )
    if arguments.junit:
        outcome.write_junit(arguments.junit)
    if arguments.json:
        outcome.write_json(arguments.json)
    if arguments.json != "-":
        print(outcome)
    return outcome.exit_code


def said_to(arguments: argparse.Namespace, suite: Any, dialect: str) -> tuple[dict[str, Any], str]:
    """Return the answers that are asked for or given, and who gave them."""
    from nplrp.conformance.backends import answers_of
    from nplrp.conformance.exporting import read_answers

    if (arguments.answers is None) == (arguments.backend is None):
        raise GoldenError("there is nothing to judge, or too much; give either a folder of answers or --backend (or --export, --list)")
    if arguments.backend:
        return answers_of(arguments.backend, suite, dialect, arguments.precision, arguments.python), arguments.backend
    if arguments.python:
        raise GoldenError("--python is for --backend")
    return read_answers(arguments.answers, suite), arguments.answers


def _check(arguments: argparse.Namespace) -> None:
    from nplrp.conformance.exporting import DTYPES, TO

    if arguments.precision not in DTYPES:
        raise GoldenError(f"there is no precision {arguments.precision!r}; expected {' or '.join(DTYPES)}")
    if getattr(arguments, "to", TO[0]) not in TO:
        raise GoldenError(f"there is no export to {arguments.to!r}; expected {' or '.join(TO)}")


