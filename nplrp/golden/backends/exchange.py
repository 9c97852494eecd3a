"""Exchange folders (docs/golden.md) as graphs of layers, for backends in interpreters that have NumPy and a framework, but not nplrp."""

import json
import re
import sys
from pathlib import Path

import numpy as np

#: Kinds that only move numbers, whatever the rule.
MOVES = ("identity", "flatten", "reshape", "permute", "pad", "crop", "upsample", "concatenate")
#: Kinds with a kernel.
WEIGHTED = ("conv", "depthwise", "conv_transpose", "dense")
#: Kinds that are y = g x + h, channel by channel.
SCALES = ("batchnorm", "affine")
POOLS = ("maxpool", "avgpool")
NORMS = ("layernorm", "rmsnorm", "unitnorm", "groupnorm")
JOINS = ("add", "average", "subtract", "maximum", "minimum", "multiply")
#: Activations over the last axis.
OVER_AXIS = ("softmax", "log_softmax", "sparsemax")
KINDS = (*MOVES, *WEIGHTED, *SCALES, *POOLS, *NORMS, *JOINS, "activation", "prelu")


class Layer:
    """A layer as LRP sees it: batch norms are merged into their neighbours where that is exact.

    Attributes
    ----------
    name : str
    inputs : list of str
        Whose outputs it reads, "input" for the network's input.
    kind : str
        One of `KINDS`. A global pool is a pool whose window is the `whole` image; a merged batch norm is an identity.
    activation, score : str
        What follows it, and what makes scores of the logits: LRP begins before that.
    rule : dict
        With every constant.
    slope : bool
        Its activation hands down its slope times R, else R.
    shapes, output_shape : list of list of int, list of int
        Of its inputs and output, without the batch axis; `shape` is the first input's.
    size, stride, dilation : list of int
        Of its window.
    padding : str or list of int
        "same", "valid", or as `pads`.
    pads : (int, int, int, int)
        Rows and columns at top, bottom, left, right: around a window layer's image (of a transposed convolution, around its output), or
        what a pad or crop adds or takes away.
    arrays : dict of ndarray
        Of these `kernel` (HWIO, or (in, out); or g of a scale) and `bias` are as LRP sees them.
    options : dict
        What else its kind has to know.
    """

    def __init__(self, row, inputs, shapes, arrays):
        self.name, self.inputs, self.kind, self.activation, self.score = row["name"], inputs, row["kind"], row["activation"], ""
        self.rule, self.shapes, self.shape, self.output_shape = row["rule"], shapes, shapes[0], row["output_shape"]
        self.options, self.epsilon, self.arrays = row.get("options", {}), row["epsilon"], arrays
        self.kernel, self.bias, self.groups = arrays.get("kernel"), arrays.get("bias"), self.options.get("groups", 1)
        self.whole = self.kind.startswith("global_")
        window = row["window"] or [[1, 1], [1, 1], [1, 1], "valid"]
        if self.whole:
            self.kind, window = self.kind.replace("global_", ""), [self.shape[:2], self.shape[:2], [1, 1], "valid"]
        self.size, self.stride, self.dilation, self.padding = window
        self.pads = self.same if self.padding == "same" else (0, 0, 0, 0) if self.padding == "valid" else tuple(self.padding)
        if self.kind in ("pad", "crop"):
            self.pads = tuple(row["pads"] or (0, 0, 0, 0))
        if self.kind == "input" or row.get("merged"):
            self.kind = "identity"
        if self.kind not in KINDS:
            raise SystemExit(f"{self.name}: layers of kind {self.kind!r} aren't supported")
        if self.kind == "upsample" and self.options.get("interpolation", "nearest") != "nearest":
            raise SystemExit(f"{self.name}: upsampling other than to the nearest pixel isn't supported")

    @property
    def same(self):
        """Rows and columns of 'same' padding, the odd ones at the bottom and right."""
        ends = []
        lengths = self.output_shape if self.kind == "conv_transpose" else self.shape
        for length, size, stride, dilation in zip(lengths, self.size, self.stride, self.dilation):
            total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
            ends += [total // 2, total - total // 2]
        return tuple(ends)

    @property
    def gain(self):
        """A scale's g and h, float64."""
        arrays = {key: np.asarray(array, np.float64) for key, array in self.arrays.items()}
        ones, zeros = np.ones(self.shape[-1]), np.zeros(self.shape[-1])
        if self.kernel is not None:
            return arrays["kernel"], arrays["bias"]
        if self.kind == "affine":
            return arrays.get("scale", ones), arrays.get("offset", zeros)
        g = arrays.get("gamma", ones) / np.sqrt(arrays["variance"] + self.epsilon)
        return g, arrays.get("beta", zeros) - arrays["mean"] * g

    @property
    def still(self):
        """Whether it computes nothing at all."""
        return self.view and self.shape == self.output_shape

    @property
    def view(self):
        """Whether it only looks at its numbers, perhaps in another shape."""
        return self.kind in ("identity", "flatten", "reshape", "activation") and self.activation == "linear"

    def refuse(self, what):
        """Stop: this layer has something that isn't supported."""
        raise SystemExit(f"{self.name}: {what}")

    def no_rule(self, library):
        """Stop: the library has no such rule for this layer."""
        self.refuse(f"{library} has no rule {self.rule['name']!r} with these constants for layers of kind {self.kind!r}")


def parsed(activation):
    """Return the name of an activation and its parameters: "relu(max_value=6.0)" -> ("relu", {"max_value": 6.0})."""
    name, given = re.fullmatch(r"(\w+)(?:\((.*)\))?", activation).groups()
    pairs = [pair.split("=") for pair in (given or "").split(", ") if pair]
    return name, {key: float(value) for key, value in pairs}


class Job:
    """What is asked for.

    Attributes
    ----------
    about : dict
        Provenance of the golden values.
    layers : list of Layer
        Each behind those that it reads.
    readers : dict of list
        For each output the names of the layers that read it, in order.
    dtype : numpy.dtype
        To compute in.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.about = json.loads((folder / "about.json").read_text("utf-8"))
        self._files, self._arrays = {}, {}
        for line in (folder / "contents.txt").read_text("utf-8").splitlines():
            file, dtype, axes, *rest = line.split(" ")
            shape, name = [int(n) for n in rest[: int(axes)]], " ".join(rest[int(axes) :])
            self._files[name] = folder / file, "<" + dtype, shape
        for name in sorted(self._files):  # those of "merged" come before those of "weights", and count
            kind, *parts = name.split("/")
            if kind in ("merged", "weights"):
                self._arrays.setdefault(_unquoted(parts[0]), {}).setdefault(parts[1], self._read(name))
        first, *rows = self.about["layers"]
        shapes, before, self.layers = {first["name"]: first["output_shape"]}, first["name"], []
        for row in rows:
            inputs = row.get("inputs") or [before]
            found = [shapes[name] for name in inputs]
            self.layers.append(Layer(row, inputs, found, self._arrays.get(row["name"], {})))
            before, shapes[row["name"]] = row["name"], row["output_shape"]
        self._by_name = {layer.name: layer for layer in self.layers}
        self.readers = {name: [layer.name for layer in self.layers if name in layer.inputs] for name in shapes}
        slopes = self.about.get("slopes")
        for layer in self.layers:
            layer.slope = layer.activation != "linear" and (slopes == "all" or (slopes == "layers" and layer.kind == "activation"))
        self._unseen, self._instead = set(), {}
        for row in rows:
            if row.get("merged"):
                self._merge(row["name"], row.get("merged_into") or self._home(row["name"]))
        self.dtype, self.scored = self.input.dtype, self._score()

    def _home(self, name):
        """Return the layer of a chain that a batch norm lives in, for files that don't say."""
        at = [layer.name for layer in self.layers].index(name)
        below = next((layer for layer in self.layers[at - 1 :: -1] if not layer.still), None) if at else None
        if below is not None and below.kind in (*WEIGHTED, *SCALES, *NORMS) and below.activation == "linear":
            return below.name
        return next(layer.name for layer in self.layers[at + 1 :] if layer.kind in (*WEIGHTED, *SCALES))

    def _merge(self, name, home):
        """Note whose outputs are others than in the golden run, since a batch norm is done at another layer.

        Below: from that layer on up to the batch norm. Above: from the batch norm on up to that layer, which reads what the batch norm
        did; only views lie between.
        """
        order = {layer.name: at for at, layer in enumerate(self.layers)}
        first, at = sorted((name, home), key=order.get)
        while at != first:
            at = self._by_name[at].inputs[0]
            self._unseen.add(at)
            if first == name:
                below = self._by_name[name].inputs[0]
                self._instead[at] = self._instead.get(below, below)

    def _score(self):
        """Mark the layer whose activation makes scores of the logits; return the names of outputs that are scores."""
        names, at, turned = [], self.layers[-1], False
        while at.view and at.inputs[0] in self._by_name and len(self.readers[at.inputs[0]]) == 1:
            names.append(at.name)
            turned = turned or not at.still
            at = self._by_name[at.inputs[0]]
        name = parsed(at.activation)[0]
        apart = turned and name in OVER_AXIS and at.output_shape[-1] != self.layers[-1].output_shape[-1]
        if name in ("linear", "relu") or apart:
            return []
        at.score, at.activation, at.slope = at.activation, "linear", False
        return [*names, at.name]

    @property
    def score(self):
        """What makes scores of the logits, "linear" if nothing does."""
        return next((layer.score for layer in self.layers if layer.score), "linear")

    def _read(self, name):
        path, dtype, shape = self._files[name]
        return np.fromfile(path, dtype).reshape(shape)

    @property
    def input(self):
        """The network's input, [n, *input_shape]."""
        return self._read("input")

    def inputs(self, layer):
        """Golden inputs of a layer, {name: [n, *shape]}."""
        found = {}
        for name, shape in zip(layer.inputs, layer.shapes):
            array = self._read(f"layers/{_quoted(self._instead.get(name, name))}/activation")
            found[name] = array.reshape(len(array), *shape)
        return found

    def relevance(self, layer):
        """Golden relevance of a layer's output."""
        return self._read(f"layers/{_quoted(layer.name)}/relevance")

    def start(self, logits):
        """Return what the pass begins with: from the backend's own logits [n, units], or for uncommon starts the golden numbers."""
        targets, start = self.about["targets"], self.about["start"]
        if targets is None or start not in ("one", "logit"):
            return self.relevance(self.layers[-1]).reshape(logits.shape).astype(logits.dtype)
        chosen = np.zeros_like(logits)
        chosen[np.arange(len(logits)), targets] = 1
        return chosen if start == "one" else chosen * logits

    def several(self, edges):
        """Keep the edges, {(layer, input): R}, whose input has several readers: of others it is the relevance of the input."""
        return {edge: R for edge, R in edges.items() if len(self.readers[edge[1]]) > 1}

    def write(self, target, relevances, activations, edges):
        """Write NHWC arrays by layers' names, edges by (layer, input); outputs that merged batch norms hide are left out.

        Relevance that isn't given is the sum over the edges, the last reader first.
        """
        sums = {}
        for (_, name), R in reversed(edges.items()):  # edges are in forward order
            sums[name] = sums[name] + R if name in sums else R
        found = {f"relevances/{_quoted(name)}": array for name, array in {**sums, **relevances}.items()}
        found |= {f"activations/{_quoted(name)}": array for name, array in activations.items() if name not in self._unseen}
        found |= {f"edges/{_quoted(layer)}/{_quoted(name)}": R for (layer, name), R in self.several(edges).items()}
        np.savez(target, **found)


def _quoted(name):
    return name.replace("%", "%25").replace("/", "%2F")


def _unquoted(name):
    return name.replace("%2F", "/").replace("%25", "%")


def command(main):
    """Run a backend on the command line's arguments; what its library can't do is said in one line."""
    try:
        main(*sys.argv[1:])
    except Exception as error:  # whatever the library raises is the answer
        text = str(error).strip().splitlines() or [""]
        raise SystemExit(f"{type(error).__name__}: {text[0]}") from error
