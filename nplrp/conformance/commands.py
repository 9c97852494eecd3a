"""The command line of the suite: `nplrp conformance` and `nplrp golden identify`; each imports only what it needs."""

from __future__ import annotations

import argparse
from typing import Any

from nplrp.files.given import add_flags, given
from nplrp.golden.errors import DIVERGED, PASSED, GoldenError
from nplrp.usage import Parser


def add_commands(commands: Any, golden: Any) -> None:
    """Add ``conformance`` to the parser of all commands, and ``identify`` to the actions of ``golden``."""
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
    command.add_argument(
        "--audit", action="store_true", help="say what the suite itself could let through: what tolerances hide, faults caught"
    )
    command.add_argument(
        "--xfails", metavar="FILE", help="names or patterns of cases that are expected to fail, one a line; # begins a comment"
    )
    command.add_argument("--require-all", action="store_true", help="a case without an answer fails")
    command.add_argument("--json", metavar="FILE", help="also write the results as JSON; - for standard output")
    command.add_argument("--junit", metavar="FILE", help="also write them as JUnit XML")
    command.set_defaults(run=run_conformance)

    identify = golden.add_parser(
        "identify",
        parents=[suite],
        help="which dialect a backend speaks, rule by rule",
        description="From answers to the conformance suite, or with --golden from one run beside golden values. Exit codes: 0 a dialect is "
        "near, 1 none is, 2 usage or bad file, 4 nothing to go by.",
    )
    identify.add_argument(
        "answers", metavar="CANDIDATE", nargs="*", help="a folder of answers to the suite, or .npz; with --golden a candidate as for check"
    )
    identify.add_argument("--golden", metavar="G", help="golden values that the candidate ran beside (needs --weights)")
    identify.add_argument("--weights", "-w", metavar="FILE", help="the weights that were recorded")
    add_flags(identify)
    identify.add_argument("--mode", default="local", metavar="M", help="with --golden: local (default), it ran end to end; or isolated")
    identify.add_argument("--json", metavar="FILE", help="also write it as JSON; - for standard output")
    identify.set_defaults(run=run_identify)


def run_conformance(arguments: argparse.Namespace) -> int:
    """Export, list, or judge answers to the suite."""
    from nplrp.conformance.backends import dialect_of
    from nplrp.conformance.exporting import export
    from nplrp.conformance.running import judged, read_xfails
    from nplrp.conformance.suite import load
    from nplrp.golden.report import check_outputs

    _check(arguments)
    check_outputs(arguments.json, arguments.junit)
    dialect = dialect_of(arguments.backend or "", arguments.dialect)
    suite = load().only(arguments.only, dialect)
    if arguments.list:
        print("\n".join(case.name for case in suite))
        return PASSED
    if arguments.audit:
        return _audited(arguments, suite, dialect)
    if arguments.export:
        count = export(suite, arguments.export, dialect, arguments.precision, arguments.to)
        print(f"wrote {count} cases in dialect {dialect} to {arguments.export}")
        return PASSED
    xfails = read_xfails(arguments.xfails) if arguments.xfails else ()
    said, name = _said(arguments, suite, dialect)
    outcome = judged(suite, said, dialect, arguments.precision, backend=name, xfails=xfails, all_required=arguments.require_all)
    if arguments.junit:
        outcome.write_junit(arguments.junit)
    if arguments.json:
        outcome.write_json(arguments.json)
    if arguments.json != "-":
        print(outcome)
    return outcome.exit_code


def _audited(arguments: argparse.Namespace, suite: Any, dialect: str) -> int:
    """Audit the suite itself."""
    from nplrp.conformance.auditing import audit_suite
    from nplrp.golden.report import write_json
    from nplrp.schema import versioned

    if arguments.answers or arguments.backend:
        raise GoldenError("--audit is of the suite itself; leave out the answers or --backend")
    found = audit_suite(suite, dialect)
    if arguments.json:
        write_json(versioned("conformance.audit", found.as_json()), arguments.json)
    if arguments.json != "-":
        print(found)
    return PASSED if found.passed else DIVERGED


def run_identify(arguments: argparse.Namespace) -> int:
    """Name the dialect that a backend speaks."""
    from nplrp.golden.report import check_outputs, write_json
    from nplrp.schema import versioned

    _check(arguments)
    check_outputs(arguments.json)
    found = _of_run(arguments) if arguments.golden else _of_answers(arguments)
    if arguments.json:
        write_json(versioned("golden.identify", found.as_json()), arguments.json)
    if arguments.json != "-":
        print(found)
    return int(found.exit_code)


def _of_answers(arguments: argparse.Namespace) -> Any:
    from nplrp.conformance.backends import answers_of, dialect_of
    from nplrp.conformance.exporting import read_answers
    from nplrp.conformance.identify import identified
    from nplrp.conformance.suite import load

    if bool(arguments.answers) == bool(arguments.backend):
        raise GoldenError("there is nothing to identify, or too much; give either answers or --backend")
    if arguments.weights:
        raise GoldenError("--weights is for --golden")
    asked = dialect_of(arguments.backend or "", arguments.dialect)
    suite = load().only(arguments.only)
    if arguments.backend:
        said = answers_of(arguments.backend, suite, asked, arguments.precision, arguments.python)
    else:
        said = {name: each for path in arguments.answers for name, each in read_answers(path, suite).items()}
    return identified(suite, said, arguments.precision, asked, arguments.backend or ", ".join(arguments.answers))


def _of_run(arguments: argparse.Namespace) -> Any:
    from nplrp.conformance.identify import identified_run
    from nplrp.golden.candidate import Candidate, read_candidate
    from nplrp.golden.file import read

    if not arguments.answers or not arguments.weights or arguments.backend:
        raise GoldenError("with --golden give a candidate, and the weights that were recorded (--weights)")
    if arguments.mode not in ("local", "isolated"):
        raise GoldenError(f"there is no mode {arguments.mode!r}; expected local or isolated")
    several = [read_candidate(path) for path in arguments.answers]
    relevances = {name: each for one in several for name, each in one.relevances.items()}
    activations = {name: each for one in several for name, each in one.activations.items()}
    candidate = Candidate(relevances, activations, source=", ".join(arguments.answers))
    golden = read(arguments.golden)
    if golden.profile != "full":
        raise GoldenError("this digest has samples only, so no layer can be run again; record a full file")
    return identified_run(golden, given(arguments).load(), candidate, arguments.mode)


def _said(arguments: argparse.Namespace, suite: Any, dialect: str) -> tuple[dict[str, Any], str]:
    """Return the answers that are asked for or given, and who gave them."""
    from nplrp.conformance.backends import answers_of
    from nplrp.conformance.exporting import read_answers

    if (arguments.answers is None) == (arguments.backend is None):
        raise GoldenError("there is nothing to judge, or too much; give either a folder of answers or --backend (or --export, --list)")
    if arguments.backend is not None:
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
