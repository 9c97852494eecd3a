"""The command line of evaluations: `nplrp evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nplrp.files.given import add_flags, given
from nplrp.schema import print_json

if TYPE_CHECKING:
    import numpy as np

    from nplrp.model import Model


def add_commands(commands: Any) -> None:
    """Add ``evaluate`` to the parser of all commands."""
    evaluate = commands.add_parser(
        "evaluate",
        help="are explanations any good? metrics of composites on images",
        description="Measure explanations of images: do they show what the model looks at, how simple and how stable are they, "
        "do they depend on what was learned? docs/evaluate.md says what each metric means.",
    )
    evaluate.add_argument("images", nargs="*", metavar="IMAGES", help="image files, folders, patterns, @LIST, or - for standard input")
    evaluate.add_argument("--input", "-x", metavar="X.npy", help="instead of images: a preprocessed tensor [n, *input_shape]")
    evaluate.add_argument("--weights", "-w", metavar="FILE", help="Keras weights or model; default: as for nplrp explain")
    add_flags(evaluate)
    evaluate.add_argument("--resample", help="filter for the resize; default: the model's own")
    evaluate.add_argument("--crop", action="store_true", default=None, help="resize the shorter side and cut out the centre")
    evaluate.add_argument("--composite", "-c", default="notebook", metavar="NAME[,NAME...]", help="rules to compare (default notebook)")
    evaluate.add_argument("--dialect", "-d", metavar="D", help="compute as this system does; default: the composite's own")
    evaluate.add_argument("--start", metavar="S", help="what passes begin with; default: the dialect's")
    evaluate.add_argument(
        "--metric",
        "-m",
        metavar="NAME[,NAME...]",
        help="metrics, perhaps with parameters as in 'pixel_flipping(order=lerf,baseline=mean)'; --list shows all; default: deletion, "
        "insertion, sparseness, complexity, completeness",
    )
    evaluate.add_argument("--list", action="store_true", help="print all metrics with their parameters, and do nothing else")
    evaluate.add_argument("--target", "-t", metavar="T", help="output to explain and follow; default: the start's, and the largest score")
    evaluate.add_argument("--score", default="probability", metavar="S", help="what is followed: probability (default), or logit")
    evaluate.add_argument(
        "--features",
        default="pixels",
        metavar="F",
        help="what is perturbed and counted: pixels (default), or values, every channel alone",
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of everything that is drawn (default 0)")
    evaluate.add_argument("--dtype", default="float32", help="float32 (default) or float64")
    evaluate.add_argument("--algorithm", default="auto", help="auto (default), or direct: every convolution by its definition")
    evaluate.add_argument("--json", action="store_true", help="print everything as JSON, image by image")
    evaluate.add_argument("--plot", metavar="OUT.png", help="draw the curves")
    evaluate.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Measure composites, and print what was found."""
    from nplrp.errors import OutputError
    from nplrp.evaluate.errors import EvaluationError
    from nplrp.evaluate.predicting import check_features, check_score
    from nplrp.evaluate.table import listing, metrics_named
    from nplrp.files.atomic import check_place
    from nplrp.images import check_resample
    from nplrp.plan import check_words
    from nplrp.rules.composites import composite_named, split_names
    from nplrp.targets import check_word

    if arguments.list:
        print(listing())
        return
    if bool(arguments.images) == bool(arguments.input):
        raise EvaluationError("there is nothing to evaluate on; give images, or --input X.npy, and not both")
    from nplrp.evaluate.evaluating import DEFAULT, evaluate
    from nplrp.progress import Progress

    metrics = metrics_named(DEFAULT if arguments.metric is None else arguments.metric)
    for name in split_names(arguments.composite):
        composite_named(name)
    if arguments.plot:
        from nplrp.evaluate.picture import check_drawn

        if Path(arguments.plot).suffix.lower() != ".png":
            raise OutputError(f"--plot {arguments.plot}: expected a name that ends in .png")
        check_place(arguments.plot)
        check_drawn(metrics)
    check_words(arguments.dtype, arguments.algorithm, arguments.dialect, arguments.start)
    check_word(arguments.target)
    check_resample(arguments.resample)
    check_score(arguments.score)
    check_features(arguments.features)
    images, x = _inputs(arguments)
    model = given(arguments).load()
    names, x = _named(arguments, model, images, x)
    bar = Progress(None, "evaluating", "steps", quiet=arguments.quiet)

    def shown(done: int, total: int, what: str) -> None:
        bar.label, bar.total = what or bar.label, total
        bar.update(done)

    try:
        found = evaluate(
            model,
            x,
            arguments.composite,
            metrics,
            target=arguments.target,
            score=arguments.score,
            features=arguments.features,
            dialect=arguments.dialect,
            start=arguments.start,
            dtype=arguments.dtype,
            algorithm=arguments.algorithm,
            seed=arguments.seed,
            names=names,
            progress=shown,
        )
    finally:
        bar.close()
    if arguments.plot:
        from nplrp.evaluate.picture import plot
        from nplrp.heatmaps import save_png

        save_png(plot(found), arguments.plot)
    if arguments.json:
        print_json("evaluate", found.as_json())
    else:
        print(found)
    if arguments.plot and not arguments.quiet:
        print(f"wrote {arguments.plot}", file=sys.stderr if arguments.json else sys.stdout)


def _inputs(arguments: argparse.Namespace) -> tuple[list[str], np.ndarray | None]:
    """Look at the inputs before a model is read; return the names of images, or a tensor."""
    from nplrp.errors import brief_reason
    from nplrp.evaluate.errors import EvaluationError
    from nplrp.files.arrays import read_npy

    if arguments.images:
        from nplrp.batch.images import find_images
        from nplrp.images import look

        names = find_images(arguments.images, sys.stdin)
        for name in names:
            look(name)
        return names, None
    try:
        return [], read_npy(arguments.input)
    except (OSError, ValueError) as error:
        reason = brief_reason(error)
        raise EvaluationError(f"{arguments.input}: can't be read as a NumPy array ({reason}); write it with numpy.save") from None


def _named(arguments: argparse.Namespace, model: Model, images: list[str], x: np.ndarray | None) -> tuple[list[str], np.ndarray]:
    """Return what the inputs are called, and the tensor of them."""
    if x is not None:
        return [f"{Path(arguments.input).name}[{i}]" for i in range(len(x) if x.ndim else 0)], x
    from nplrp.images import load_pixels, normalize

    pixels = load_pixels(images, model, resample=arguments.resample, crop=arguments.crop)
    return images, normalize(pixels, model.preprocessing.mode)
