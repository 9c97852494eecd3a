"""Exchange folders (docs/golden.md) as a chain of layers, for backends in interpreters that have NumPy and a framework, but not nplrp."""

import itertools
import json
from pathlib import Path

import numpy as np


class Layer:
    """A layer as LRP sees it: batch norms are merged into their neighbours.

    Attributes
    ----------
    name, below : str
        Its own, and whose output it reads.
    kind, activation : str
    rule : dict
        With every constant.
    shape : list of int
        Of its input, without the batch axis.
    size, stride, dilation : list of int
        Of its window.
    pads : (int, int, int, int)
        Rows and columns of zeros: top, bottom, left, right.
    kernel, bias : ndarray or None
        HWIO, or (in, out).
    """

    def __init__(self, row, below, arrays):
        self.name, self.below, self.kind, self.activation = row["name"], below, row["kind"], row["activation"]
        self.rule, self.shape = row["rule"], row["input_shape"]
        self.kernel, self.bias = (
            arrays.get(f"merged/{self.name}/{key}", arrays.get(f"weights/{self.name}/{key}")) for key in ("kernel", "bias")
        )
        self.size, self.stride, self.dilation, padding = row["window"] or ([1, 1], [1, 1], [1, 1], "valid")
        self.pads = (0, 0, 0, 0)
        if padding == "same":
            ends = []
            for length, size, stride, dilation in zip(self.shape, self.size, self.stride, self.dilation):
                total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
                ends += [total // 2, total - total // 2]
            self.pads = tuple(ends)
        if self.kind == "batchnorm":
            if not row["merged"]:
                raise SystemExit(f"{self.name}: batch norms that can't be merged into a neighbour aren't supported")
            self.kind = "identity"
        if self.kind in ("conv", "maxpool", "avgpool") and self.pads[::2] != self.pads[1::2]:
            raise SystemExit(f"{self.name}: padding that isn't the same on both sides isn't supported")
        if self.kind not in ("conv", "dense", "maxpool", "avgpool", "flatten", "identity", "activation", "dropout"):
            raise SystemExit(f"{self.name}: layers of kind {self.kind!r} aren't supported")


class Job:
    """What is asked for.

    Attributes
    ----------
    about : dict
        Provenance of the golden values.
    layers : list of Layer
    dtype : numpy.dtype
        To compute in.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.about = json.loads((folder / "about.json").read_text("utf-8"))
        self._arrays = {}
        for line in (folder / "contents.txt").read_text("utf-8").splitlines():
            file, dtype, axes, *rest = line.split(" ")
            shape, name = [int(n) for n in rest[: int(axes)]], " ".join(rest[int(axes) :])
            self._arrays[name.replace("%2F", "/").replace("%25", "%")] = folder / file, "<" + dtype, shape
        rows = self.about["layers"]
        weights = {name: self._read(name) for name in self._arrays if name.split("/")[0] in ("weights", "merged")}
        self.layers = [Layer(row, below["name"], weights) for below, row in itertools.pairwise(rows)]
        self._unseen, self._read_instead = set(), {}
        for before, layer, row in zip([None, *self.layers], self.layers, rows[1:]):
            if row["kind"] != "batchnorm":
                continue
            if before and before.kind in ("conv", "dense") and before.activation == "linear":  # merged into the layer before it
                self._unseen.add(before.name)
            else:
                self._unseen.add(layer.name)
                self._read_instead[layer.name] = self._read_instead.get(layer.below, layer.below)
        self.dtype = self.input.dtype

    def _read(self, name):
        path, dtype, shape = self._arrays[name]
        return np.fromfile(path, dtype).reshape(shape)

    @property
    def input(self):
        """The network's input, [n, *input_shape]."""
        return self._read("input")

    def activation(self, layer):
        """Golden input of a layer, [n, *shape]."""
        return self._read(f"layers/{self._read_instead.get(layer.below, layer.below)}/activation")

    def relevance(self, layer):
        """Golden relevance of a layer's output."""
        return self._read(f"layers/{layer.name}/relevance")

    def start(self, logits):
        """Return what the pass begins with: from the backend's own logits [n, units], or for uncommon starts the golden numbers."""
        targets, start = self.about["targets"], self.about["start"]
        if targets is None or start not in ("one", "logit"):
            return self.relevance(self.layers[-1]).reshape(logits.shape).astype(logits.dtype)
        chosen = np.zeros_like(logits)
        chosen[np.arange(len(logits)), targets] = 1
        return chosen if start == "one" else chosen * logits

    def write(self, target, relevances, activations):
        """Write NHWC arrays by layers' names; what merged batch norms hide is left out."""
        found = {f"relevances/{name}": array for name, array in relevances.items()}
        found |= {f"activations/{name}": array for name, array in activations.items() if name not in self._unseen}
        np.savez(target, **found)
