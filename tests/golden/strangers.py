"""Mistakes of other people's choice, and how often each is caught, placed and named: the table of docs/golden-diagnosis.md.

python -m tests.golden.strangers --rows rows.jsonl            a line per case, as it comes; the same command again goes on from there
python -m tests.golden.strangers --page docs/golden-diagnosis.md rows.jsonl ...      writes the tables
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

import numpy as np

from nplrp import golden
from nplrp.golden.candidate import Candidate
from tests import networks
from tests.golden.mistaken_port import Port

#: What is wrong, where it may be, with which number, and what a right name says. Places: "first" (the first convolution), "conv" (another
#: one), "dense", "linear" (both of the last two), "pool", "flatten", "add", "concat", "top" (the output), "input", "norm", "act".
MISTAKES = [
    # what relevance is divided by
    ("epsilon", "linear", 0.5, r"epsilon.*0\.5"),
    ("epsilon", "linear", 0.01, r"epsilon.*0\.01"),
    ("epsilon", "linear", 0.037, r"epsilon.*0\.037"),
    ("epsilon without sign", "linear", 0.1, r"0\.1.*(unsigned|without the sign)"),
    ("epsilon subtracted", "linear", 0.1, r"epsilon.*-0\.1|subtracted.*0\.1"),
    ("epsilon of deviations", "linear", 0.25, r"epsilon.*0\.25.*std"),
    ("epsilon of rms", "linear", 0.25, r"epsilon.*0\.25.*(rms|mean square)"),
    ("epsilon of mean", "linear", 0.1, r"epsilon.*0\.1.*mean"),
    ("epsilon clips", "linear", 0.3, r"clip.*(0\.3|beneath)"),
    ("absolute denominator", "linear", None, r"\|z\||absolute"),
    ("not divided", "linear", None, r"gradient x input|not divided"),
    ("all of z below", "conv", None, r"w as it is.*denominator"),
    ("plain weights above", "conv", None, r"w as it is.*numerator"),
    # biases
    ("no bias", "linear", None, r"bias.*(left out|none)|bias x 0\b"),
    ("bias", "linear", 2.0, r"bias.*(twice|x 2)"),
    ("bias", "linear", -1.0, r"bias.*(negated|subtracted|x -1)"),
    ("bias", "linear", 0.5, r"bias.*(x 0\.5|half)"),
    ("positive bias only", "linear", None, r"bias.*(positive|b\+)"),
    ("bias rolled", "linear", None, r"bias.*(unit|channel).*(exchanged|shifted|by one)"),
    ("bias of one unit", "linear", ((2,), 0.9), r"bias\[2\].*0\.9"),
    ("bias of one unit", "linear", ((1,), 0.0), r"bias\[1\].*\b0\b"),
    ("bias shared among inputs", "linear", None, r"bias.*(shared|numerator)"),
    ("no bias below", "conv", None, r"bias.*(negative|beta)|negative.*bias"),
    # rules
    ("gamma", "conv", 0.5, r"gamma.*0\.5"),
    ("gamma", "conv", 0.1, r"gamma.*0\.1"),
    ("gamma", "conv", 0.3125, r"gamma.*0\.3125"),
    ("gamma of w-", "conv", None, r"gamma.*w-|w\+ and w- exchanged|w\+ where w-|w- where w\+"),
    ("one half", "first", None, r"gamma.*one half|split|not contributions"),
    ("alpha and beta", "conv", (1.0, 2.0), r"alpha.*exchanged|alpha=1\b.*beta=2\b"),
    ("alpha and beta", "conv", (1.5, 0.5), r"alpha=1\.5.*beta=0\.5"),
    ("alpha and beta", "conv", (2.0, -1.0), r"alpha=2.*beta=-1"),
    ("alpha and beta", "conv", (1.0, 1.0), r"alpha=1.*beta=1"),
    ("inputs not split", "first", None, r"split|not contributions"),
    ("absolute weights", "conv", None, r"\|w\|"),
    ("w- for w+", "conv", None, r"w-|w\+ and w-"),
    ("other rule", "conv", "epsilon", r"epsilon"),
    ("other rule", "conv", "wsquare", r"wsquare|w\^2"),
    ("other rule", "conv", "flat", r"flat"),
    ("other rule", "dense", "zplus", r"zplus|z\+"),
    ("box", "first", (0.0, 255.0), r"low=0\b.*high=255"),
    ("box", "first", (-1.0, 1.0), r"low=-1\b.*high=1\b"),
    ("box", "first", (-100.0, 130.0), r"low=-100\b.*high=130"),
    ("box RGB", "first", None, r"RGB"),
    ("box exchanged", "first", None, r"(low and high|bounds).*(swapped|exchanged)"),
    ("box without its top", "first", None, r"high.*left out|without.*high"),
    ("power", "first", 1.0, r"\|w\|(?!\^2)|power.*1\b"),
    # what is done to relevance
    ("not times a", "linear", None, r"not multiplied"),
    ("times a squared", "linear", None, r"(multiplied|times).*(a |activation|input).*(twice|again|once more)"),
    ("times |a|", "first", None, r"\|a\|"),
    ("absolute", "linear", None, r"absolute"),
    ("rectified", "linear", None, r"rectified|negative.*(cut|dropped)"),
    ("negated", "linear", None, r"negated|times -1"),
    ("mean of the batch", "linear", None, r"times 0\.5|mean"),
    ("times", "linear", 1.001, r"times 1\.001"),
    ("times", "linear", 0.37, r"times 0\.37"),
    ("sums to 1", "linear", None, r"sums? (to|is) 1"),
    ("sums to what came", "linear", None, r"sum.*(came|above)"),
    ("largest is 1", "linear", None, r"largest.*1|max.*1"),
    ("rows and columns", "conv", None, r"rows and columns exchanged"),
    ("mirrored", "conv", None, r"(columns|left).*(reversed|right)|mirrored"),
    ("upside down", "conv", None, r"rows.*reversed|upside"),
    ("channels backwards", "conv", None, r"channels.*reversed"),
    ("rolled", "conv", None, r"shifted"),
    ("batch backwards", "linear", None, r"image"),
    ("channels first", "conv", None, r"CHW|NCHW|channels first"),
    ("masked", "first", None, r"mask|negative inputs cut"),
    ("half", "linear", None, r"float16"),
    ("last row lost", "conv", None, r"row"),
    ("a channel lost", "conv", 1, r"channel"),
    ("a tile lost", "conv", None, r"rows 0.*columns 4|tile"),
    ("a border lost", "conv", None, r"border"),
    ("one element", "conv", None, r"one element|1 element"),
    ("R of the layer above", "act", None, r"another layer|relevance of"),
    ("R cut at 0", "linear", None, r"(negative relevance|R).*(above|cut|dropped|>)"),
    # kernels
    ("not flipped", "conv", None, r"not flipped"),
    ("kernel's rows and columns", "conv", None, r"kernel.*rows and columns|rows and columns of the kernel"),
    ("padding off by one", "conv", None, r"padding off by one|shifted"),
    ("padding at the other side", "strided", None, r"other side|padding"),
    ("one weight", "conv", ((0, 2, 1, 3), 1.5), r"weight\[0, 2, 1, 3\].*1\.5"),
    ("one weight", "dense", ((3, 1), 0.75), r"weight\[3, 1\].*0\.75"),
    ("a filter lost", "conv", 2, r"(filter|unit|channel|weight).*2"),
    ("an input channel lost", "conv", 1, r"channel 1"),
    ("TF32", "linear", None, r"TF32"),
    ("bfloat16", "linear", None, r"bfloat16"),
    ("half weights", "linear", None, r"weights rounded to float16|float16"),
    ("half inputs", "linear", None, r"float16"),
    ("norm's epsilon", "normed", 1e-5, r"batch norm.*1e-05|1e-05.*batch norm"),
    ("norm not merged", "normed", None, r"not merged|unmerged"),
    ("norm's shift forgotten", "normed", None, r"bias|shift"),
    # pools, joins, the start
    ("ties all", "pool", None, r"(every|all).*(tie|maximum|maxima)|ties.*all"),
    ("ties shared", "pool", None, r"winner_ties|tie.*share|share"),
    ("last", "pool", None, r"last"),
    ("by activation", "pool", None, r"average|proportion"),
    ("evenly", "pool", None, r"even|flat"),
    ("smallest", "pool", None, r"smallest"),
    ("overwritten", "overlapping", None, r"overwrit|last window"),
    ("CHW back", "flatten", None, r"CHW"),
    ("all to both", "add", None, r"all of R|gradient"),
    ("half to each", "add", None, r"half|evenly|flat"),
    ("by absolute values", "add", None, r"absolute|\|a\|"),
    ("all to the first", "add", None, r"first|shortcut_bn|only"),
    ("branches exchanged", "add", None, r"exchanged"),
    ("cut in other order", "concat", None, r"order|exchanged"),
    ("slope", "act", None, r"mask|slope"),
    ("other class", "top", 1, r"target|class"),
    ("start one", "top", None, r"start one"),
    ("start softmax", "top", None, r"start softmax"),
    ("start all logits", "top", None, r"start all"),
    ("start half", "top", None, r"times 0\.5"),
    # the forward pass
    ("forward without bias", "linear", None, r"bias left out"),
    ("forward kernel flipped", "conv", None, r"kernel flipped"),
    ("forward weight", "conv", ((1, 0, 2, 1), 1.25), r"weight\[1, 0, 2, 1\].*1\.25"),
    ("forward bias", "linear", ((1,), 0.8), r"bias\[1\].*0\.8"),
    ("forward matrix transposed", "square", None, r"transposed"),
    ("forward CHW", "flat dense", None, r"CHW"),
    ("forward half", "linear", None, r"float16"),
    ("forward padding", "conv", None, r"shifted|padding"),
    ("forward average", "pool", None, r"average"),
    ("CHW", "flatten", None, r"CHW"),
    ("norm's epsilon", "norm", 1e-5, r"epsilon.*1e-05"),
    ("batch statistics", "norm", None, r"batch"),
    ("no norm", "norm", None, r"left out"),
    ("skip left out", "add", None, r"left out"),
    ("other order", "concat", None, r"order|exchanged"),
    ("no ReLU", "relu", None, r"relu left out"),
    ("leaky", "relu", 0.01, r"(slope|leaky).*0\.01"),
    ("ReLU6", "relu", 1.0, r"(ceiling|clipped|ReLU).*1\b"),
    ("dropout", "relu", 2.0, r"times 2|dropout"),
    ("mean kept", "input", None, r"mean"),
    ("0..1", "input", None, r"0\.0039|1/255|scale"),
    ("RGB", "input", None, r"RGB"),
    ("rows and columns", "input", None, r"rows and columns"),
    ("mirrored", "input", None, r"columns.*reversed|mirrored|left"),
]

#: Rules, and which mistakes are made under them: all, or those that others haven't.
_SOME = "^(bias$|no bias|one weight|bias of one|TF32|absolute denominator|plain weights|not times|times a sq|epsilon of rms|not flipped"
COMPOSITES = {
    "epsilon_plus": "",
    "epsilon_gamma_box": _SOME + "|gamma|one half|box|epsilon$|inputs not|other rule)",
    "epsilon_alpha2_beta1": _SOME + "|alpha|no bias below|inputs not|absolute weights|w- for)",
    "epsilon(epsilon=0.25)": _SOME + "|epsilon|rounded|R cut|absolute$|masked)",
    "gamma": _SOME + "|gamma|one half|R cut)",
    "wsquare": "^(power|other rule|times|slope|R of|masked|a channel|sums)",
    "flat": "^(power|other rule|times|slope|R of|masked|padding at|sums)",
}


def square_vgg():
    """A chain whose convolutions and matrices are square enough for every mistake of axes."""
    rng = np.random.default_rng(3)
    kernel, conv, dense = networks.random_kernel, networks.conv, networks.dense
    layers = [
        conv("block1_conv1", kernel(rng, 3, 3, 3, 6), 0.3 * rng.normal(size=6)),
        conv("block1_conv2", kernel(rng, 3, 3, 6, 6), 0.3 * rng.normal(size=6)),
        networks.pool("block1_pool"),
        conv("block2_conv1", kernel(rng, 3, 3, 6, 8), 0.3 * rng.normal(size=8)),
        conv("block2_conv2", kernel(rng, 3, 3, 8, 8), 0.3 * rng.normal(size=8)),
        networks.pool("block2_pool"),
        networks.plain("flatten", "flatten"),
        dense("fc1", kernel(rng, 5 * 5 * 8, 16), 0.3 * rng.normal(size=16)),
        dense("fc2", kernel(rng, 16, 16), 0.3 * rng.normal(size=16)),
        dense("predictions", kernel(rng, 16, 7), 0.3 * rng.normal(size=7), "softmax"),
    ]
    return networks.chain((20, 20, 3), layers, "chain", preprocessing=networks.Preprocessing("caffe"))


NETWORKS = {"chain": square_vgg, "residual": lambda: networks.small_resnet(4, size=16)}
PLACES = {
    "chain": {
        "first": ["block1_conv1"],
        "conv": ["block2_conv2", "block1_conv2"],
        "dense": ["fc1"],
        "linear": ["block1_conv2", "fc2"],
        "pool": ["block2_pool"],
        "flatten": ["flatten"],
        "top": ["predictions"],
        "input": ["input"],
        "relu": ["block1_conv2"],
        "square": ["fc2"],
        "flat dense": ["fc1"],
        "act": [],
    },
    "residual": {
        "first": ["stem_conv"],
        "conv": ["body2_conv"],
        "dense": ["predictions"],
        "linear": ["body2_conv", "predictions"],
        "pool": ["top_pool"],
        "overlapping": ["stem_pool"],
        "flatten": ["flatten"],
        "add": ["add"],
        "concat": ["concat"],
        "top": ["predictions"],
        "norm": ["body1_bn"],
        "normed": ["body1_conv"],
        "strided": ["body1_conv"],
        "relu": ["body1_relu"],
        "act": ["stem_relu"],
        "input": ["input"],
        "flat dense": ["predictions"],
    },
}


def pictures(shape):
    """Two seeded images with a flat region, as real pictures have."""
    x = networks.images(11, 2, shape)
    x[1, 3:9, 3:9] = 2.5
    x[0, -4:, :5] = -1.0
    return x.astype(np.float32).astype(np.float64)


def run(model, recorded, mistake=None):
    port = Port(model, recorded.facts, mistake)
    with np.errstate(all="ignore"):
        activations = port.forward(recorded.input)
        return Candidate(port.backward(), activations)


def cases(network, model, recorded):
    """Return (mistake, words that name it, rule, candidate) for every mistake that may be made in a network under some rules.

    Where two mistakes at a layer give the same numbers, as a negated bias and none do under z+ if all are positive, either's name is right.
    """
    rules, found = {row["name"]: (row["rule"] or {}).get("name") for row in recorded.facts["layers"]}, []
    for what, where, given, words in MISTAKES:
        for layer in PLACES[network].get(where, []):
            flat = what == "forward CHW"
            number = model.layers[[each.name for each in model].index("flatten")].input_shape if flat else given
            found.append([(layer, what, number), words, rules.get(layer), run(model, recorded, (layer, what, number))])
    own = [one[1] for one in found]
    for one in found:
        alike = [told for told, other in zip(own, found, strict=True) if other[0][0] == one[0][0] and same(one[3], other[3], 1e-6)]
        one[1] = "|".join(dict.fromkeys([one[1], *alike]))
    return found


def judge(report, mistake, words, forward):
    """Return (caught, right layer, right first, right among three, wrong, none) for a report on a mistake."""
    caught = not report.passed
    layer = mistake[0]
    first = report.first
    placed = (
        caught
        and first is not None
        and (
            layer in first.layer
            or (first.layer == "start" and mistake[1].startswith(("start", "other class")))
            or (layer == "input" and first.what == "activation")
        )
    )
    text = next((each for each in report.diagnosis if " matches " in each and "none of" not in each), "")
    named = re.search(r'matches "(.*?)" (?:to|but)', text)
    others = text[named.end() :] if named else ""
    right = bool(named and re.search(words, named[1], re.IGNORECASE))
    among = right or bool(named and re.search(words, others, re.IGNORECASE))
    return caught, placed, right, among, bool(named) and not among, not named


def same(a, b, rtol=0.0):
    """Tell whether two candidates have the same numbers, each array to within a share of its largest."""
    pairs = [(a.relevances[k], b.relevances[k]) for k in b.relevances] + [(a.activations[k], b.activations[k]) for k in b.activations]
    return all(np.abs(x - y).max() <= rtol * np.abs(y).max() for x, y in pairs)


def case(network, composite, mistake):
    """Return what tells a case from all others, as it is after a way through JSON."""
    return json.dumps([network, composite, mistake], default=str)


def measure(composites, mode="local", only=None, show=False, chosen=tuple(NETWORKS), done=()):
    """Yield a row for each mistake in each network under each composite where it changes anything, but for the cases that are done."""
    for composite in composites:
        for network in chosen:
            model = NETWORKS[network]()
            x = pictures(model.input_shape)
            recorded = golden.record(model, x, composite, start="logit")
            right = run(model, recorded)
            report = golden.check(recorded, right, mode=mode, model=model)
            if not report.passed:
                print("FALSE ALARM", network, composite, report, file=sys.stderr)
            for mistake, words, rule, wrong in cases(network, model, recorded):
                if not re.search(COMPOSITES.get(composite, ""), mistake[1]) or (only and not re.search(only, mistake[1])):
                    continue
                if same(wrong, right) or case(network, composite, mistake) in done:
                    continue
                began = time.process_time()
                report = golden.check(recorded, wrong, mode=mode, model=model)
                if report.passed and mode == "local":
                    report = golden.check(recorded, wrong, mode="chained", model=model)
                took = time.process_time() - began
                row = (network, composite, rule, mistake, *judge(report, mistake, words, False), took, report.diagnosis)
                if show:
                    flags = "".join(f if v else "." for f, v in zip("CLRAWN", row[4:10], strict=True))
                    print(flags, network, composite, rule, mistake, f"{took:.1f}s", *report.diagnosis[:2], sep=" | ", flush=True)
                yield row


def totals(rows):
    rows = list(rows)
    names = ("caught", "right layer", "right name first", "right among those named", "wrong name", "none")
    return {"mistakes": len(rows)} | {name: sum(row[4 + i] for row in rows) for i, name in enumerate(names)}


def line(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


COLUMNS = ("cases", "caught", "right layer", "right name first", "right among the names", "wrong name", "no name")


def counts(rows):
    return [len(rows), *(sum(bool(row[4 + k]) for row in rows) for k in range(6))]


def tables(rows):
    """Yield the measured part of the page."""
    yield line("rules", "network", *COLUMNS)
    yield line(*["---"] * 9)
    for composite, network in dict.fromkeys((row[1], row[0]) for row in rows):
        yield line(f"`{composite}`", network, *counts([row for row in rows if (row[1], row[0]) == (composite, network)]))
    yield line("all", "", *counts(rows))
    seconds = sorted(row[10] for row in rows)
    middle, most = seconds[len(seconds) // 2], seconds[-1]
    yield f"\nA check with its diagnosis took {middle:.1f} s of one core's time in the middle, {most:.1f} s at most.\n"
    yield line("mistake", "at", *COLUMNS)
    yield line(*["---"] * 9)
    places = {what: where for what, where, *_ in MISTAKES}
    for what, number in dict.fromkeys((row[3][1], str(row[3][2])) for row in rows):
        those = [row for row in rows if (row[3][1], str(row[3][2])) == (what, number)]
        told = "" if number in ("None", "True") else f" {number}"
        yield line(f"{what}{told}".replace("|", "\\|"), places.get(what, ""), *counts(those))


MARK = "<!-- measured -->"


def read_rows(path):
    """Return the rows of a file, without a last one that was cut off while it was written."""
    lines = path.read_text("utf-8").split("\n") if path.exists() else [""]
    return [json.loads(each) for each in lines[:-1]]


def write_page(page, results):
    """Replace what a page has behind the mark by the tables of some results."""
    rows = [row for path in results for row in read_rows(Path(path))]
    head = page.read_text("utf-8").partition(MARK)[0].rstrip()
    page.write_text(f"{head}\n\n{MARK}\n\n" + "\n".join(tables(rows)) + "\n", "utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--composites", nargs="*", default=list(COMPOSITES))
    parser.add_argument("--mode", default="local")
    parser.add_argument("--only")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument(
        "--rows", type=Path, help="where to write a line of JSON per case, as it comes; cases that are there aren't run again"
    )
    parser.add_argument("--page", type=Path, help="write the tables of results there")
    parser.add_argument("results", nargs="*")
    options = parser.parse_args()
    if options.page:
        write_page(options.page, options.results)
        return
    rows = read_rows(options.rows) if options.rows else []
    done = {case(row[0], row[1], row[3]) for row in rows}
    if options.rows:
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    for row in measure(options.composites, options.mode, options.only, True, options.networks, done):
        rows.append(row)
        if options.rows:
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, default=str) + "\n")
    print(totals(rows))


if __name__ == "__main__":
    main()
