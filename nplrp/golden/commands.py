"""The command line of golden values: `nplrp golden record | show | verify | check | audit | export`; each imports only what it needs."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nplrp.files.given import add_flags, given
from nplrp.golden.errors import DEFAULT_MODE, DIVERGED, PASSED, GoldenError
from nplrp.pipes import draw, readable
from nplrp.schema import print_json
from nplrp.usage import Parser

if TYPE_CHECKING:
    import numpy as np

    from nplrp.golden.auditing import Audit
    from nplrp.golden.references import ReferenceAudits
    from nplrp.golden.report import Report
    from nplrp.golden.values import Golden
    from nplrp.model import Model


def add_commands(commands: Any) -> Any:
    """Add ``golden`` to the parser of all commands, and return its actions."""
    golden = commands.add_parser(
        "golden",
        help="record golden values and check other implementations against them",
        description="Exit codes: 0 pass, 1 diverged, 2 usage or bad file, 3 other weights or input, 4 nothing compared.",
    )
    actions = golden.add_subparsers(title="actions", required=True, metavar="ACTION")
    model = Parser(add_help=False)
    model.add_argument("--weights", "-w", metavar="FILE", help="Keras weights or model; default: as for nplrp explain")
    add_flags(model)
    model.add_argument("--image", "-i", metavar="IMAGE", help="image file")
    model.add_argument("--input", "-x", metavar="X.npy", help="preprocessed tensor [n, *input_shape]")

    record = actions.add_parser("record", parents=[model], help="run LRP in float64 and keep every number with its tolerance")
    record.add_argument("--composite", "-c", default="notebook", metavar="NAME", help="rules (default notebook)")
    record.add_argument("--dialect", metavar="NAME", help="whose switches to set; default: the composite's own")
    record.add_argument("--start", metavar="NAME", help="what the pass begins with; default: the dialect's")
    record.add_argument("--target", "-t", metavar="T", help="output to explain: index, class id or class name")
    record.add_argument(
        "--profile", default="full", metavar="P", help="full (default), or digest: hashes, sums and samples, at most 0.5 MB"
    )
    record.add_argument("-o", "--output", required=True, metavar="G.lrpgold.h5", help="file to write")
    record.set_defaults(run=run_record)

    show = actions.add_parser("show", help="what a golden file holds")
    show.add_argument("golden", metavar="G")
    show.add_argument("--digest", action="store_true", help="print the file's SHA-256 alone, to keep where the file isn't: in git")
    show.add_argument("--json", action="store_true", help="print the provenance as JSON")
    show.set_defaults(run=run_show)

    verify = actions.add_parser("verify", parents=[model], help="check that not a byte has changed")
    verify.add_argument("golden", metavar="G")
    verify.add_argument("--recompute", action="store_true", help="record again, and compare the bits")
    verify.set_defaults(run=run_verify)

    export = actions.add_parser("export", parents=[model], help="write the arrays for other languages")
    export.add_argument("golden", metavar="G")
    export.add_argument("--to", default="npz", metavar="F", help="npz (default), or raw: a folder of little-endian numbers")
    export.add_argument("--dtype", default="float64", help="of activations and relevances: float64 (default) or float32")
    export.add_argument("-o", "--output", metavar="PATH", help="file or folder to write; default: beside the golden file")
    export.set_defaults(run=run_export)

    check = actions.add_parser("check", parents=[model], help="compare a candidate, and say where it differs and why")
    check.add_argument("golden", metavar="G")
    check.add_argument("candidate", metavar="CANDIDATE", nargs="?", help=".npz, .h5, .safetensors, or a folder of raw arrays")
    check.apart = ("candidate",)  # G -w W CANDIDATE
    check.add_argument(
        "--backend",
        metavar="B",
        help="instead of a candidate: zennit, captum or innvestigate, or a COMMAND that is run as COMMAND IN OUT.npz, where IN is what "
        "'export --to raw' writes (needs -w)",
    )
    check.add_argument("--python", metavar="PATH", help="the interpreter that has zennit, captum or innvestigate; default: this one")
    check.add_argument(
        "--mode",
        default=DEFAULT_MODE,
        metavar="M",
        help="chained (default): it ran end to end, and with -w each layer is computed again where that leaves anything open; local: that "
        "alone; isolated: each layer got golden inputs",
    )
    check.add_argument("--require-all", action="store_true", help="pass only a candidate that gives every array")
    check.add_argument("--fail-on", default="diverged", metavar="V", help="diverged (default), or suspect: pass nothing that is suspect")
    check.add_argument("--digest", metavar="D", help="refuse a golden file with another SHA-256 than 'show --digest' gave; or a file of it")
    check.add_argument("--layout", default="NHWC", help="NHWC (default) or NCHW")
    check.add_argument("--map", metavar="FILE", help="table of layer names: JSON {theirs: ours}, or lines 'theirs ours'")
    check.add_argument("--precision", metavar="P", help="float16, float32 or float64: what the backend computes in; default: by its arrays")
    check.add_argument("--first", type=int, metavar="I", help="where in the candidate's batch the golden images begin")
    check.add_argument("--convolutions", default="direct", help="direct (default), or winograd or fft: elements are then judged by tile")
    check.add_argument("--rtol", type=float, metavar="X", help="judge by |d| <= atol + rtol |golden| instead, as NumPy does")
    check.add_argument("--atol", type=float, metavar="X")
    check.add_argument("--json", metavar="FILE", help="also write the report as JSON; - for standard output")
    check.add_argument("--png", metavar="FILE", help="also draw the report")
    check.set_defaults(run=run_check)

    audit = actions.add_parser(
        "audit",
        parents=[model],
        help="how much this file could let through, or turn away: what tolerances hide, faults caught, right code rejected",
    )
    audit.add_argument("golden", metavar="G", help="a golden file, or one of iNNvestigate's reference files (tests/references/layer)")
    audit.add_argument("--rtol", type=float, metavar="X", help="audit |d| <= atol + rtol |golden| instead of the derived tolerances")
    audit.add_argument("--atol", type=float, metavar="X")
    audit.add_argument("--json", metavar="FILE", help="also write it as JSON; - for standard output")
    audit.set_defaults(run=run_audit)
    return actions


def run_record(arguments: argparse.Namespace) -> None:
    """Record golden values."""
    from nplrp.files.atomic import check_place
    from nplrp.golden.file import SUFFIX, write
    from nplrp.golden.recording import check_profile, record
    from nplrp.plan import check_words
    from nplrp.rules.composites import composite_named
    from nplrp.targets import check_word

    if not arguments.output.endswith(SUFFIX):
        raise GoldenError(f"{arguments.output}: golden files are called NAME{SUFFIX}; give a name that ends so")
    check_place(arguments.output)
    check_profile(arguments.profile)
    composite_named(arguments.composite)
    check_words(dialect=arguments.dialect, start=arguments.start)
    check_word(arguments.target)
    tensor = _input(arguments)
    if tensor is None:
        raise GoldenError("there is nothing to explain; give --image or --input")
    model = given(arguments).load()
    x = tensor(model)
    name, tell = Path(arguments.image or arguments.input).name, _teller(arguments)
    golden = record(
        model,
        x,
        arguments.composite,
        arguments.target,
        dialect=arguments.dialect,
        start=arguments.start,
        profile=arguments.profile,
        input_name=name,
        progress=tell,
    )
    tell(f"writing {arguments.output}")
    write(golden, arguments.output)
    tell("")
    print(f"{golden}\nwrote {arguments.output}")


def run_show(arguments: argparse.Namespace) -> None:
    """Print what a golden file holds."""
    from nplrp.golden.file import digest, read

    golden = read(arguments.golden)
    if arguments.digest:
        print(f"{digest(arguments.golden)}  {Path(arguments.golden).name}")
        return
    if arguments.json:
        print_json("golden.show", dict(sorted(golden.facts.items())))
    else:
        print(golden)


def run_verify(arguments: argparse.Namespace) -> int:
    """Check a golden file, perhaps by recording it again."""
    from nplrp.golden.file import read

    golden = read(arguments.golden)
    print(f"{arguments.golden}: whole, content SHA-256 {golden.facts['content_sha256']}")
    if not arguments.recompute:
        return PASSED
    from nplrp.golden.recording import recompute

    tensor = _input(arguments)
    model = given(arguments).load()
    other = recompute(golden, model, tensor and tensor(model))
    if other:
        print(f"recomputed: {len(other)} arrays have other bits: {', '.join(other)}")
        return DIVERGED
    print("recomputed: the same bits")
    return PASSED


def run_export(arguments: argparse.Namespace) -> None:
    """Write the arrays for other languages."""
    from nplrp.files.atomic import check_new_folder, check_place
    from nplrp.golden.exporting import export
    from nplrp.golden.file import SUFFIX, read

    golden = read(arguments.golden)
    output = arguments.output or arguments.golden.removesuffix(SUFFIX) + (".npz" if arguments.to == "npz" else "")
    (check_place if arguments.to == "npz" else check_new_folder)(output)
    export(golden, output, given(arguments).load() if arguments.weights else None, arguments.to, arguments.dtype)
    print(f"wrote {output}")


def run_check(arguments: argparse.Namespace) -> int:
    """Compare a candidate with golden values, and hash these meanwhile."""
    from concurrent.futures import ThreadPoolExecutor

    from nplrp.golden.file import check_content, check_digest, read_sealed
    from nplrp.golden.report import check_outputs

    check_outputs(arguments.json, arguments.png)
    if arguments.digest is not None:
        check_digest(arguments.golden, arguments.digest)
    _teller(arguments)(f"reading {arguments.golden}")
    golden = read_sealed(arguments.golden)
    with ThreadPoolExecutor(1) as pool:
        hashed = pool.submit(check_content, golden, arguments.golden)
        try:
            report = _checked(arguments, golden)
        finally:
            hashed.result()
    return _told(arguments, report)


def _checked(arguments: argparse.Namespace, golden: Golden) -> Report:
    """Compare what a command line names."""
    import sys

    from nplrp.golden.candidate import read_candidate, read_map
    from nplrp.golden.checking import check

    names = read_map(arguments.map) if arguments.map else None
    if (arguments.candidate is None) == (arguments.backend is None):
        raise GoldenError("there is nothing to check, or too much; give either a candidate or --backend")
    if arguments.backend and not arguments.weights:
        raise GoldenError("a backend needs the weights that were recorded; give --weights")
    tensor = _input(arguments)
    model = given(arguments).load() if arguments.weights else None
    if model is not None and arguments.backend:
        from nplrp.golden.backend import BACKENDS, adapter, computed_otherwise, run_backend

        known = arguments.backend in BACKENDS
        if arguments.python and not known:
            raise GoldenError(f"--python is for {', '.join(BACKENDS)}; a command begins with its own interpreter")
        if arguments.mode == "isolated" and golden.profile != "full":
            raise GoldenError("this digest has samples only, so no layer can be given golden inputs; record a full file")
        command = adapter(arguments.backend, arguments.mode, arguments.python) if known else _words(arguments.backend)
        for line in computed_otherwise(golden, arguments.backend, arguments.mode) if known else ():
            print(f"nplrp: {line}; record in its dialect (--dialect {arguments.backend}) to check it by its own rules", file=sys.stderr)
        dtype = "float64" if arguments.precision == "float64" else "float32"
        candidate = run_backend(golden, model, command, names, dtype=dtype, x=tensor and tensor(model))
        candidate = dataclasses.replace(candidate, source=arguments.backend)
    else:
        candidate = read_candidate(arguments.candidate, names)
    return check(
        golden,
        candidate,
        mode=arguments.mode,
        layout=arguments.layout,
        precision=arguments.precision,
        first=arguments.first,
        convolutions=arguments.convolutions,
        rtol=arguments.rtol,
        atol=arguments.atol,
        model=model,
        require_all=arguments.require_all,
        fail_on=arguments.fail_on,
        progress=_teller(arguments),
    )


def _told(arguments: argparse.Namespace, report: Report) -> int:
    """Print a report, and write what was asked for; return the exit code."""
    import sys

    _teller(arguments)("")
    if arguments.png:
        from nplrp.golden.picture import report_figure
        from nplrp.heatmaps import save_png

        save_png(report_figure(report), arguments.png)
    if arguments.json:
        report.write_json(arguments.json)
    if arguments.json != "-":
        print(report)
    if arguments.png:
        print(f"wrote {arguments.png}", file=sys.stderr if arguments.json == "-" else sys.stdout)
    return report.exit_code


def run_audit(arguments: argparse.Namespace) -> int:
    """Say how much a golden file could let through."""
    from nplrp.golden.auditing import audit
    from nplrp.golden.file import read
    from nplrp.golden.references import audit_references, is_reference
    from nplrp.golden.report import check_outputs, write_json

    check_outputs(arguments.json)
    tolerances, tell = {"rtol": arguments.rtol, "atol": arguments.atol}, _teller(arguments)
    if is_reference(arguments.golden):
        found: Audit | ReferenceAudits = audit_references(arguments.golden, **tolerances, progress=tell)
    else:
        golden = read(arguments.golden)
        tensor = _input(arguments)
        model = given(arguments).load() if arguments.weights else None
        x = tensor(model) if tensor and model is not None else None
        found = audit(golden, model, x, **tolerances, progress=tell)
    tell("")
    if arguments.json:
        write_json(found.as_json(), arguments.json)
    if arguments.json != "-":
        print(found)
    return PASSED if found.passed else DIVERGED


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise GoldenError(f"--backend {command}: can't be read as a command: {error}") from None
    if not words:
        raise GoldenError("--backend is empty; give zennit, captum, innvestigate or a command")
    return words


def _teller(arguments: argparse.Namespace) -> Callable[[str], None]:
    """Return what shows what is being done, where somebody watches who wants to know."""
    import sys

    def tell(what: str) -> None:
        if sys.stderr.isatty() and not arguments.quiet:
            draw(sys.stderr, f"\r\x1b[K{readable(what)}")
            sys.stderr.flush()

    return tell


def _input(arguments: argparse.Namespace) -> Callable[[Model], np.ndarray] | None:
    """Look at the input that was asked for, before a model is read; return what makes a model's input of it, or None."""
    from nplrp.errors import brief_reason
    from nplrp.files.arrays import read_npy

    if arguments.image and arguments.input:
        raise GoldenError("--image and --input exclude each other; give one")
    if arguments.image:
        from nplrp.images import look, preprocess

        look(arguments.image)
        return functools.partial(preprocess, arguments.image)
    if not arguments.input:
        return None
    try:
        array = read_npy(arguments.input)
        return lambda _: array
    except (OSError, ValueError) as error:
        raise GoldenError(f"{arguments.input}: can't be read as .npy: {brief_reason(error)}; write it with numpy.save") from None
