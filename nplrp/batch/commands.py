"""The command line of runs: `nplrp batch | merge | summary | export`; each imports only what it needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nplrp.errors import ImageError, OutputError
from nplrp.files.given import given

if TYPE_CHECKING:
    from nplrp.batch.running import Report

Parser = argparse.ArgumentParser

#: Exit code of a run in which some images couldn't be explained, and of results that aren't what they should be.
PARTLY = 1
#: Errors of images that are told one by one.
_TOLD = 10
#: Images of a run that are looked at before it begins, whether one of them is a picture.
_LOOKED_AT = 1000
#: What runs can be exported to.
TOOLS = ("virelay",)


def add_commands(commands: Any, weights: Parser, rules: Parser, numerics: Parser) -> None:
    """Add ``batch`` and ``merge`` to the parser of all commands; the parents have the flags of a model, its rules and numerics."""
    quiet = argparse.ArgumentParser(add_help=False)
    quiet.add_argument("-q", "--quiet", action="store_true", help="no progress; errors and a last line only")

    batch = commands.add_parser(
        "batch",
        parents=[weights, rules, numerics, quiet],
        help="explain thousands of images into a folder; goes on where it was stopped",
        description="Explain any number of images. The folder's shards are written whole: the same command goes on after any interruption, "
        "with the same bits. Exit codes: 0 all done, 1 some images couldn't be explained, 2 bad input.",
    )
    batch.add_argument(
        "images", nargs="+", metavar="IMAGES", help="files, folders, patterns, @LIST (names in a file), - (names from stdin)"
    )
    batch.add_argument("--out", "-o", required=True, metavar="DIR", help="folder of the run; a new one, or one to go on with")
    batch.add_argument(
        "--target", "-t", metavar="T", help="as for explain: an index, class id or class name, or top-3; default: the start's"
    )
    batch.add_argument("--start", metavar="S", help="as for explain; default: the dialect's")
    batch.add_argument("--resample", help="filter for the resize; default: the model's own")
    batch.add_argument("--crop", action="store_true", default=None, help="resize the shorter side and cut out the centre")
    batch.add_argument(
        "--keep", default="float32", metavar="K", help="float32 (default: maps as computed), float16, or reduced (their sums over channels)"
    )
    batch.add_argument("--ledger", action="store_true", help="keep where the relevance went by layer (five to eight times as long)")
    batch.add_argument("--pictures", action="store_true", help="also draw every image beside its maps (DIR/pictures/*.png)")
    batch.add_argument("--shard-size", type=int, default=None, metavar="N", help="images in a shard (default 32)")
    batch.add_argument("--shard", metavar="i/N", help="compute the i-th of N parts alone, from 1: for arrays of jobs on a cluster")
    batch.add_argument(
        "--scheduler", metavar="S", help="local, local:N (N workers), or the address of a dask scheduler (needs the extra dask)"
    )
    batch.set_defaults(run=run_batch)

    merge = commands.add_parser(
        "merge",
        parents=[weights, quiet],
        help="check a run's hashes and put its shards into one file",
        description="Check that every shard is what was written and put all into one HDF5 file. Exit codes: 0 all well, 1 bits differ.",
    )
    merge.add_argument("folder", metavar="DIR", help="of nplrp batch")
    merge.add_argument("-o", "--output", metavar="OUT.h5", help="file to write; default: DIR/merged.h5")
    merge.add_argument("--verify", metavar="SHARE", help="compute a random share again, such as 1%%, and demand equal bits (needs -w)")
    merge.add_argument("--composite", "-c", metavar="NAME[,...]", help="of --verify, if the run's composites are files of your own")
    merge.add_argument("--seed", type=int, help="which images --verify chooses; default: others each time")
    merge.set_defaults(run=run_merge)

    summary = commands.add_parser(
        "summary",
        parents=[quiet],
        help="look at a run: one page with its images, maps, statistics and outliers",
        description="Write a page that needs nothing beside itself (and a sheet of thumbnails) about a run, finished or not.",
    )
    summary.add_argument("folder", metavar="DIR", help="of nplrp batch")
    summary.add_argument("-o", "--output", metavar="OUT.html", help="page to write; default: DIR/summary.html")
    summary.add_argument("--png", metavar="SHEET.png", help="also write a sheet of thumbnails")
    summary.add_argument(
        "--images", type=int, metavar="N", help="images with thumbnails (default 400); outliers come on top, numbers are of all images"
    )
    summary.set_defaults(run=run_summary)

    export = commands.add_parser(
        "export",
        parents=[quiet],
        help="write a run as another tool reads it: ViRelAy",
        description="Write a run's pictures, maps and an analysis of them as a project of ViRelAy for each composite.",
    )
    export.add_argument("folder", metavar="DIR", help="of nplrp batch")
    export.add_argument("--to", required=True, metavar="TOOL", help="virelay")
    export.add_argument("--out", "-o", required=True, metavar="OUT", help="folder to write to; a new or an empty one")
    export.set_defaults(run=run_export)


def run_batch(arguments: argparse.Namespace) -> int:
    """Explain images into a folder."""
    from nplrp.batch.images import find_images
    from nplrp.batch.job import KEPT, SHARD, check_folder, job_facts, open_job
    from nplrp.batch.running import Part, parts_wanted, run
    from nplrp.errors import nearest
    from nplrp.images import takes_pictures
    from nplrp.jit.ahead import compiling_ahead
    from nplrp.progress import Progress, duration
    from nplrp.rules.composites import split_names
    from nplrp.stream import Wanted, unreadable

    out = Path(arguments.out)
    composites = tuple(split_names(arguments.composite or "notebook"))
    numerics = {"dtype": arguments.dtype, "algorithm": arguments.algorithm, "dialect": arguments.dialect}
    wanted = Wanted(composites, arguments.target, start=arguments.start, resample=arguments.resample, crop=arguments.crop, **numerics)
    wanted.check_words()
    if arguments.keep not in KEPT:
        raise OutputError(f"--keep {arguments.keep}: {nearest(arguments.keep, KEPT)}")
    size = SHARD if arguments.shard_size is None else arguments.shard_size
    if size < 1:
        raise OutputError(f"--shard-size {size}: expected a number of images, 1 or more")
    part = Part() if arguments.shard is None else parts_wanted(arguments.shard)
    if arguments.scheduler and part.of > 1:
        raise OutputError("--shard and --scheduler exclude each other: a scheduler divides the work itself")
    images = find_images(arguments.images, sys.stdin, out)
    new = check_folder(out)
    few = new and not arguments.scheduler and len(images) <= _LOOKED_AT  # a run that is there may be past them
    errors = unreadable(images) if few else []
    if errors:
        raise ImageError(f"none of the {len(errors)} images can be read; the first: {errors[0]}" if errors[1:] else str(errors[0]))
    model = given(arguments).load()
    wanted.check(model)
    if arguments.pictures and not takes_pictures(model.input_shape):
        raise OutputError(f"--pictures draws pictures, but {model.name} takes arrays of shape {model.input_shape}; leave it out")
    job = open_job(out, job_facts(model, wanted, arguments.keep, arguments.ledger, arguments.pictures), images, size)
    for handler in _listeners():  # what was assumed is said now, not after hours
        handler.let_go()
    bar = Progress(None, "explaining", quiet=arguments.quiet)

    try:
        if arguments.scheduler:
            from nplrp.batch.scheduling import run_scheduled

            report = run_scheduled(job, out, given(arguments), model, wanted, arguments.scheduler, bar.told, bar.note)
        else:
            with compiling_ahead("nplrp.precompile", composites[0], arguments.dtype):
                report = run(job, out, model, wanted, part, bar.told, bar.note)
    except KeyboardInterrupt:
        bar.close()
        print(f"nplrp: stopped; what is done is in {out}, and the same command goes on from there", file=sys.stderr)
        raise
    bar.close()
    _tell(report, out, duration(bar.seconds), job.places, part.shards(job) if part.of > 1 else None)
    return PARTLY if report.failed else 0


def _tell(report: Report, out: Path, time: str, places: Any, shards: Sequence[int] | None) -> None:
    before = f", {report.before} were there before" if report.before else ""
    of = "" if shards is None else f" of this part's {sum(len(places(shard)) for shard in shards)}"
    print(f"{report.done} images{of} explained in {time}{before}; results in {out}")
    if not report.failed:
        return
    print(f"nplrp: {len(report.failed)} images couldn't be explained:", file=sys.stderr)
    for _, reason in report.failed[:_TOLD]:
        print(f"  {reason}", file=sys.stderr)
    if len(report.failed) > _TOLD:
        print(f"  and {len(report.failed) - _TOLD} more: nplrp merge and nplrp summary list them", file=sys.stderr)


def _listeners() -> list[Any]:
    import logging

    return [handler for handler in logging.getLogger("nplrp").handlers if hasattr(handler, "let_go")]


def run_merge(arguments: argparse.Namespace) -> int:
    """Put a run's shards together."""
    from nplrp.batch.merging import merge, share_of, verify
    from nplrp.batch.results import Results
    from nplrp.files.atomic import check_place
    from nplrp.progress import Progress
    from nplrp.rules.composites import composite_named, split_names

    share = None if arguments.verify is None else share_of(arguments.verify)
    composites = tuple(split_names(arguments.composite)) if arguments.composite else None
    for name in composites or ():
        composite_named(name)
    results = Results.open(arguments.folder)
    path = Path(arguments.output) if arguments.output else results.folder / "merged.h5"
    if path.suffix != ".h5":
        raise OutputError(f"{path}: merged results are written as HDF5; give a name that ends in .h5")
    check_place(path)
    bar = Progress(len(results.job.ends), "merging", "shards", quiet=arguments.quiet)
    try:
        failed = merge(results, path, lambda done, _: bar.update(done))
    finally:
        bar.close()
    images = len(results.job.images) - len(failed)
    print(f"{images} images in {len(results.job.ends)} shards, every hash as it was written; wrote {path}")
    for image, reason in failed:
        print(f"  without {reason if reason.startswith(image) else f'{image}: {reason}'}", file=sys.stderr)
    if share is None:
        return 0
    model = given(arguments).load()
    bar = Progress(None, "computing again", quiet=arguments.quiet)

    try:
        count, other = verify(results, model, share, arguments.seed, results.wanted(composites), bar.told)
    finally:
        bar.close()
    for line in other:
        print(f"  {line}", file=sys.stderr)
    print(f"computed {count} images again: {count - len(other)} have the same bits, {len(other)} don't")
    return PARTLY if other else 0


def run_summary(arguments: argparse.Namespace) -> int:
    """Write a page about a run."""
    from nplrp.batch.results import Results
    from nplrp.batch.summary import THUMBNAILS, summarise, write_page, write_sheet
    from nplrp.files.atomic import check_place
    from nplrp.progress import Progress

    results = Results.open(arguments.folder)
    path = Path(arguments.output) if arguments.output else results.folder / "summary.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"{path}: the page is written as HTML; give a name that ends in .html")
    if arguments.png and Path(arguments.png).suffix.lower() != ".png":
        raise OutputError(f"{arguments.png}: the sheet is written as PNG; give a name that ends in .png")
    count = THUMBNAILS if arguments.images is None else arguments.images
    if count < 0:
        raise OutputError(f"--images {count}: expected a number of images, 0 or more")
    for each in (path, arguments.png or path):
        check_place(each)
    bar = Progress(None, "reading", quiet=arguments.quiet)
    try:
        summary = summarise(results, count, bar.told)
        size = write_page(summary, path)
        shown = write_sheet(summary, Path(arguments.png)) if arguments.png else 0
    finally:
        bar.close()
    failed, missing = summary.content["failed"]["count"], results.missing
    more = f", {failed} failed" if failed else ""
    more += f", {len(missing)} of {len(results.job.ends)} shards aren't there yet" if missing else ""
    sheet = f" and {arguments.png} ({shown} images)" if arguments.png else ""
    print(f"{summary.content['done']} images{more}; wrote {path} ({size / 1e6:.1f} MB){sheet}")
    for line in summary.content["shards"]["damaged"]:
        print(f"nplrp: {line}", file=sys.stderr)
    return PARTLY if summary.content["shards"]["damaged"] else 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write a run as another tool reads it."""
    from nplrp.errors import nearest

    if arguments.to not in TOOLS:
        raise OutputError(f"--to {arguments.to}: {nearest(arguments.to, TOOLS)}")
    from nplrp.batch.results import Results
    from nplrp.batch.virelay import export
    from nplrp.progress import Progress

    results = Results.open(arguments.folder)
    bar = Progress(None, "writing", quiet=arguments.quiet)
    try:
        done = export(results, Path(arguments.out), bar.told)
    finally:
        bar.close()
    projects = " ".join(map(str, done.projects))
    labels = "their folders" if done.labelled else "the model, as their folders aren't called like classes"
    print(f"{done.maps} maps of {done.images} images for each composite; wrote {done.folder}; look at it with: virelay {projects}")
    print(f"the dataset's labels are of {labels}; their analysis is a PCA with k-means, others can be made with CoRelAy")
    if results.missing:
        print(f"nplrp: {len(results.missing)} of {len(results.job.ends)} shards aren't there yet and aren't exported", file=sys.stderr)
    if done.blank:
        print(f"nplrp: {done.blank} pictures are gone or have changed, and are grey there", file=sys.stderr)
    return 0
