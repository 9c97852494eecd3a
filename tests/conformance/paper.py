"""LRP as the papers have it, number by number in loops, in fractions or in 50 digits: what the suite's answers are checked against.

Nothing of the engine is used: a case is read as numbers and words. `number` makes a number of a float: `fractions.Fraction` for what
needs no roots, or `mpmath.mpf`. Every layer is a list of rows (R_k, bias, [(place, weight)]), a place being (input, image and index).
"""

import itertools
import math
from fractions import Fraction

import mpmath

mpmath.mp.dps = 50
DIGITS = mpmath.mpf


def indices(shape):
    return itertools.product(*(range(n) for n in shape))


def positive(x):
    return x if x > 0 else x * 0


def negative(x):
    return x if x < 0 else x * 0


class Numbers:
    """A case's numbers, exactly."""

    def __init__(self, case, answer, number):
        self.case, self.rule, self.number, self.layer = case, answer.rule, number, case.layer
        self.inputs = [{at: number(float(a[at])) for at in indices(a.shape)} for a in case.inputs]
        self.R = {at: number(float(case.R[at])) for at in indices(case.R.shape)}
        self.arrays = {key: {at: number(float(a[at])) for at in indices(a.shape)} for key, a in case.layer.arrays.items()}
        self.stand_in = answer.stand_in

    def constant(self, name):
        value = self.rule.get(name)
        return None if value is None else self.number(float(value))

    def kernel_shape(self):
        return self.case.layer.arrays["kernel"].shape


# Which input counts how much in which output


def rows(n):
    """Yield (output, bias, [(place, weight)]) of a linear layer; a place is (input, index)."""
    kind = n.layer.kind
    yield from {
        "dense": _dense,
        "conv": _conv,
        "depthwise": _conv,
        "conv_transpose": _conv_transpose,
        "batchnorm": _batchnorm,
        "avgpool": _avgpool,
        "global_avgpool": _avgpool,
        "add": _sum,
        "average": _sum,
        "subtract": _sum,
    }[kind](n)


def _bias(n, k):
    return n.arrays["bias"][k,] if "bias" in n.arrays else n.number(0)


def _dense(n):
    inputs, outputs = n.kernel_shape()
    for image, k in indices((len(n.case.R), outputs)):
        yield (image, k), _bias(n, k), [((0, (image, j)), n.arrays["kernel"][j, k]) for j in range(inputs)]


def _pads(window, height, width):
    if window.padding == "valid":
        return 0, 0
    if window.padding != "same":
        return window.padding[0], window.padding[2]
    begin = []
    for side, size, stride, dilation in zip((height, width), window.size, window.stride, window.dilation, strict=True):
        out = math.ceil(side / stride)
        begin.append(max((out - 1) * stride + (size - 1) * dilation + 1 - side, 0) // 2)
    return tuple(begin)


def _seen(window, y, x, height, width, pads):
    """Yield (row of the kernel, column of the kernel, row, column) of the pixels that output (y, x) sees."""
    for i, j in indices(window.size):
        row = y * window.stride[0] + i * window.dilation[0] - pads[0]
        column = x * window.stride[1] + j * window.dilation[1] - pads[1]
        if 0 <= row < height and 0 <= column < width:
            yield i, j, row, column


def _conv(n):
    images, height, width, channels = n.case.inputs[0].shape
    shape, window = n.kernel_shape(), n.layer.window
    pads = _pads(window, height, width)
    depthwise = n.layer.kind == "depthwise"
    groups = channels if depthwise else n.layer.options.get("groups", 1)
    filters = shape[2] * shape[3] if depthwise else shape[3]
    per, given = channels // groups, filters // groups
    for image, y, x, k in indices((images, *n.case.R.shape[1:3], filters)):
        entries = []
        for i, j, row, column in _seen(window, y, x, height, width, pads):
            for c in range(per):
                channel = k // given * per + c
                weight = n.arrays["kernel"][(i, j, channel, k % given) if depthwise else (i, j, c, k)]
                entries.append(((0, (image, row, column, channel)), weight))
        yield (image, y, x, k), _bias(n, k), entries


def _conv_transpose(n):
    """Keras's: pixel (row, column) of the input is spread over the window that a convolution of the output would see there."""
    images, height, width, channels = n.case.inputs[0].shape
    window, (high, wide, filters) = n.layer.window, n.case.R.shape[1:]
    pads, found = _pads(window, high, wide), {}
    for row, column in indices((height, width)):
        for i, j, y, x in _seen(window, row, column, high, wide, pads):
            found.setdefault((y, x), []).append((row, column, i, j))
    for image, y, x, k in indices((images, high, wide, filters)):
        entries = [
            ((0, (image, row, column, c)), n.arrays["kernel"][i, j, k, c])
            for row, column, i, j in found.get((y, x), [])
            for c in range(channels)
        ]
        yield (image, y, x, k), _bias(n, k), entries


def _batchnorm(n):
    epsilon = n.number(float(n.layer.epsilon))
    for at in indices(n.case.inputs[0].shape):
        c = (at[-1],)
        variance = n.arrays["variance"][c]
        if n.stand_in:  # iNNvestigate's: the variance squared, the mean not multiplied by gamma
            root = mpmath.sqrt(variance**2 + epsilon)
            g, h = n.arrays["gamma"][c] / root, n.arrays["beta"][c] - n.arrays["mean"][c] / root
        else:
            g = n.arrays["gamma"][c] / mpmath.sqrt(variance + epsilon)
            h = n.arrays["beta"][c] - n.arrays["mean"][c] * g
        yield at, h, [((0, at), g)]


def _windows(n):
    """Yield (output, places that its window sees, row by row)."""
    images, height, width, channels = n.case.inputs[0].shape
    if n.layer.window is None:
        shape = n.case.R.shape
        for image, c in indices((images, channels)):
            seen = [(image, row, column, c) for row, column in indices((height, width))]
            yield (image, c) if len(shape) == 2 else (image, 0, 0, c), seen
        return
    pads = _pads(n.layer.window, height, width)
    for image, y, x, c in indices(n.case.R.shape):
        yield (image, y, x, c), [(image, row, column, c) for _, _, row, column in _seen(n.layer.window, y, x, height, width, pads)]


def _avgpool(n):
    for k, seen in _windows(n):
        yield k, n.number(0), [((0, at), n.number(1) / len(seen)) for at in seen]


def _sum(n):
    count = len(n.inputs)
    weights = {"add": [1] * count, "average": [n.number(1) / count] * count, "subtract": [1, -1]}[n.layer.kind]
    for at in n.R:
        yield at, n.number(0), [((i, at), n.number(1) * weight) for i, weight in enumerate(weights)]


# Line 2: what is divided by


def stabilised(n, zs):
    """Return denominators of z by output, None where the unit is dropped, "R" where R passes undivided."""
    e, name = n.constant("epsilon"), n.rule["stabiliser"]
    if name == "sign" and e == 0:
        name = "drop"
    roots = {}
    if name.startswith("rms"):
        for image in {k[0] for k in zs}:
            squares = [z * z for k, z in zs.items() if k[0] == image]
            roots[image] = mpmath.sqrt(sum(squares) / len(squares))

    def of(k, z):
        sign = -1 if z < 0 else 1
        if name == "clip":
            return sign * max(abs(z), e)
        if name == "rms":
            return z + n.number(1e-9) + e * roots[k[0]]
        if name == "rms_sign":
            return z + sign * e * roots[k[0]]
        if name == "rms_clip":
            return sign * max(abs(z), e * roots[k[0]])
        if name == "split" and z == 0:
            return n.number(1e-15)
        if name == "guard":
            return z if z > 0 else None
        if name == "drop":
            return z if z != 0 else None
        if name == "zero":
            return z if z != 0 else e
        if name == "sign_skip" and z == 0:
            return "R"
        if name == "sign_drop" and z == 0:
            return None
        return z + e if name == "plus" else z + sign * e

    return {k: of(k, z) for k, z in zs.items()}


# Rules of linear layers: parts (share of R, what each input gives, what of the bias counts)


def parts(n):
    """Return (weight of the part, numerator(a, w), bias(b), for which sign of z) for a rule."""
    name, bias = n.rule["name"], n.rule.get("bias")
    gamma, alpha, beta = (n.constant(each) for each in ("gamma", "alpha", "beta"))
    split = n.rule.get("split", True)
    one, nothing = n.number(1), n.number(0)

    def of_bias(change):
        return {"changed": change, "raw": lambda b: b, "none": lambda b: nothing, None: lambda b: nothing}[bias]

    if name in ("zero", "epsilon", "norm", "average"):
        return [(one, lambda a, w: a * w, of_bias(lambda b: b), 0)]
    if name == "gamma":

        def up(w):
            return w + gamma * positive(w)

        def down(w):
            return w + gamma * negative(w)

        if not split:
            return [(one, lambda a, w: a * up(w), of_bias(up), 0)]
        return [
            (one, lambda a, w: positive(a) * up(w) + negative(a) * down(w), of_bias(up), 1),
            (one, lambda a, w: positive(a) * down(w) + negative(a) * up(w), of_bias(down), -1),
        ]
    if name in ("zplus", "alpha_beta"):
        alpha, beta = (one, nothing) if name == "zplus" else (alpha, beta)
        if split:
            both = [
                (alpha, lambda a, w: positive(a * w), of_bias(positive), 0),
                (-beta, lambda a, w: negative(a * w), of_bias(negative), 0),
            ]
        else:
            both = [
                (alpha, lambda a, w: a * positive(w), of_bias(positive), 0),
                (-beta, lambda a, w: a * negative(w), of_bias(negative), 0),
            ]
        return [part for part in both if part[0] != 0]
    if name == "alpha_beta_x":  # of iNNvestigate's four terms those that positive inputs have
        return [
            (alpha, lambda a, w: positive(a) * positive(w), of_bias(positive), 0),
            (-beta, lambda a, w: positive(a) * negative(w), of_bias(negative), 0),
        ]
    pool = n.layer.kind.endswith("pool")
    if pool and name in ("wsquare", "flat"):  # a mean's weights are all alike: R is spread evenly
        return [(one, lambda a, w: w, of_bias(lambda b: b), 0)]
    if name == "wsquare":
        return [(one, lambda a, w: w * w, of_bias(lambda b: b * b), 0)]
    if name == "flat":
        return [(one, lambda a, w: one, lambda b: nothing, 0)]
    assert name == "zbox", name
    low, high = n.constant("low"), n.constant("high")
    return [(one, lambda a, w: a * w - low * positive(w) - high * negative(w), lambda b: nothing, 0)]


def linear(n, table):
    """Carry relevance back through rows."""
    found, one = _nothing(n), n.number(1)
    table = list(table)
    if n.rule["name"] == "gradient":
        for k, _, entries in table:
            for (i, at), w in entries:
                found[i][at] += w * n.R[k]
        return found
    zs = {k: sum((n.inputs[i][at] * w for (i, at), w in entries), b) for k, b, entries in table}
    if n.rule.get("branch") == "y" and n.layer.activation == "relu":
        zs = {k: positive(z) for k, z in zs.items()}
    for weight, numerator, of_bias, sign in parts(n):
        gives = {k: [(place, numerator(n.inputs[place[0]][place[1]], w)) for place, w in entries] for k, _, entries in table}
        sums = {k: sum((each for _, each in gives[k]), of_bias(b)) for k, b, _ in table}
        denominators = stabilised(n, sums)
        for k, _, _ in table:
            d = denominators[k]
            if d is None or d == 0 or (sign and not zs[k] * sign > 0):
                continue
            s = weight * n.R[k] / (one if isinstance(d, str) else d)
            for (i, at), given in gives[k]:
                found[i][at] += given * s
    return found


def _nothing(n):
    return [dict.fromkeys(each, n.number(0)) for each in n.inputs]


# Layers that choose, move, multiply, bend


def chosen(n):
    """Carry relevance back through a max-pool, a maximum or a minimum."""
    name, kind, found = n.rule["name"], n.layer.kind, _nothing(n)
    if kind in ("maximum", "minimum"):
        places = [(k, [(i, k) for i in range(len(n.inputs))]) for k in n.R]
    else:
        places = [(k, [(0, at) for at in seen]) for k, seen in _windows(n)]
    if name in ("average", "flat"):
        return linear(n, [(k, n.number(0), [(place, n.number(1) / len(several)) for place in several]) for k, several in places])
    best = min if kind == "minimum" else max
    for k, several in places:
        top = best(n.inputs[i][at] for i, at in several)
        winners = [(i, at) for i, at in several if n.inputs[i][at] == top]
        if name == "winner_ties":
            for i, at in winners:
                found[i][at] += n.R[k] / len(winners)
            continue
        share = n.number(1)
        if name == "winner_epsilon":
            d = stabilised(n, {k: top})[k]
            share = n.number(0) if d is None or d == 0 else top / d
        i, at = winners[0]
        found[i][at] += n.R[k] * share
    return found


def multiplied(n):
    """Carry relevance back through a product; an input of fewer places counts at all that it is repeated at."""
    found, name = _nothing(n), n.rule["name"]
    shapes = [a.shape for a in n.case.inputs]
    signal = max(range(len(shapes)), key=lambda i: (math.prod(shapes[i]), -i))
    for k, R in n.R.items():
        at = [tuple(0 if side == 1 else place for side, place in zip(shape, k, strict=True)) for shape in shapes]
        at = [(k[0], *place[1:]) for place in at]
        for i in range(len(shapes)):
            if name == "half":
                share = n.number(1) / len(shapes)
            elif name == "signal":
                share = n.number(int(i == signal))
            else:
                share = n.number(1)
                for other in range(len(shapes)):
                    share *= n.inputs[other][at[other]] if other != i else 1
            found[i][at[i]] += share * R
    return found


def moved(n):
    """Carry relevance back along the ways that numbers take."""
    found, kind, options = _nothing(n), n.layer.kind, n.layer.options
    shape, out = n.case.inputs[0].shape, n.case.R.shape
    top, _, left, _ = n.layer.pads or (0, 0, 0, 0)
    if kind == "concatenate":
        first = shape[-1]
        for k, R in n.R.items():
            i = int(k[-1] >= first)
            found[i][(*k[:-1], k[-1] - first * i)] += R
        return found
    flat = {k: place for place, k in enumerate(indices(out))}
    own = list(indices(shape))
    for k, R in n.R.items():
        if kind in ("flatten", "reshape"):
            at = own[flat[k]]
        elif kind == "permute":
            at = [k[0]] + [0] * (len(shape) - 1)
            for place, axis in enumerate(options["dims"], 1):
                at[axis] = k[place]
        elif kind == "upsample":
            at = (k[0], k[1] // options["size"][0], k[2] // options["size"][1], k[3])
        else:
            sign = 1 if kind == "crop" else -1
            at = (k[0], k[1] + sign * top, k[2] + sign * left, k[3])
        if tuple(at) in found[0]:
            found[0][tuple(at)] += R
    return found


def _erf_gelu(x):
    return x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2


FUNCTIONS = {
    "relu": (positive, lambda x: int(x > 0)),
    "relu(max_value=1.0)": (lambda x: min(positive(x), 1), lambda x: int(0 < x < 1)),
    "leaky_relu": (lambda x: x if x > 0 else x * DIGITS(0.2), lambda x: 1 if x > 0 else DIGITS(0.2)),
    "elu": (lambda x: x if x > 0 else mpmath.expm1(x), lambda x: 1 if x > 0 else mpmath.exp(x)),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), lambda x: mpmath.exp(-x) / (1 + mpmath.exp(-x)) ** 2),
    "tanh": (mpmath.tanh, lambda x: 1 - mpmath.tanh(x) ** 2),
    "silu": (lambda x: x / (1 + mpmath.exp(-x)), lambda x: (1 + mpmath.exp(-x) * (1 + x)) / (1 + mpmath.exp(-x)) ** 2),
    "gelu": (
        _erf_gelu,
        lambda x: (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2 + x * mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi),
    ),
}


def bent(n):
    """Carry relevance back through an activation."""
    function, slope = FUNCTIONS[n.layer.activation]
    found, name = _nothing(n), n.rule["name"]
    values = {k: function(a) for k, a in n.inputs[0].items()}
    denominators = stabilised(n, values) if name in ("norm", "epsilon") else {}
    for k, R in n.R.items():
        if name == "pass":
            share = 1
        elif name == "slope":
            share = slope(n.inputs[0][k])
        else:
            d = denominators[k]
            share = 0 if d is None or d == 0 or n.inputs[0][k] == 0 else values[k] / d
        found[0][k] += share * R
    return found


def normalised(n):
    """Carry relevance back through a normalisation: linear in x while the deviation is held, or by all of its derivative."""
    kind, name = n.layer.kind, n.rule["name"]
    shape, epsilon, groups = n.case.inputs[0].shape, n.number(float(n.layer.epsilon)), {}
    for at in indices(shape):
        if kind == "groupnorm":
            per = shape[-1] // n.layer.options["groups"]
            groups.setdefault((at[0], at[-1] // per), []).append(at)
        else:
            groups.setdefault(at[:-1], []).append(at)
    x, table, slopes = n.inputs[0], [], {}
    for places in groups.values():
        m = len(places)
        mean = sum(x[at] for at in places) / m if kind in ("layernorm", "groupnorm") else n.number(0)
        square = sum((x[at] - mean) ** 2 for at in places)
        deviation = mpmath.sqrt(square) if kind == "unitnorm" else mpmath.sqrt(square / m + epsilon)
        for k in places:
            g = n.arrays["gamma"][k[-1],] if "gamma" in n.arrays else n.number(1)
            h = n.arrays["beta"][k[-1],] if "beta" in n.arrays else n.number(0)
            entries = []
            for j in places:
                own = n.number(int(j == k)) - (n.number(1) / m if kind in ("layernorm", "groupnorm") else 0)
                entries.append(((0, j), g * own / deviation))
                of_deviation = (x[j] - mean) / deviation / (1 if kind == "unitnorm" else m)
                slopes[k, j] = g * own / deviation - g * (x[k] - mean) / deviation**2 * of_deviation
            table.append((k, h, entries))
    if name == "pass":
        return [dict(n.R)]
    if name == "slope":
        found = _nothing(n)
        for (k, j), slope in slopes.items():
            found[0][j] += slope * n.R[k]
        return found
    return linear(n, table)


LINEAR = ("dense", "conv", "depthwise", "conv_transpose", "batchnorm", "avgpool", "global_avgpool", "add", "average", "subtract")
CHOICES = ("maxpool", "global_maxpool", "maximum", "minimum")
NORMS = ("layernorm", "rmsnorm", "unitnorm", "groupnorm")
ROOTS = ("batchnorm", *NORMS)


def rational(case, answer):
    """Tell whether a case's answer is a fraction."""
    bent = case.layer.kind == "activation" and case.layer.activation not in ("relu", "relu(max_value=1.0)")
    return case.layer.kind not in ROOTS and not bent and not str(answer.rule.get("stabiliser", "")).startswith("rms")


def relevance(case, answer):
    """Return relevance of each input by index: exactly, if it is a fraction, else in 50 digits."""
    number = Fraction if rational(case, answer) else DIGITS
    n = Numbers(case, answer, number)
    kind = case.layer.kind
    if n.rule["name"] == "pass" and kind in (*LINEAR, "activation"):
        return [dict(n.R)]
    if kind in LINEAR:
        return linear(n, rows(n))
    if kind in CHOICES:
        return chosen(n)
    if kind == "multiply":
        return multiplied(n)
    if kind == "activation":
        return bent(n)
    if kind in NORMS:
        return normalised(n)
    return moved(n)
