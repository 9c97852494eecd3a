"""A port by somebody else: NumPy alone, no code of nplrp, in any precision and several orders of summation; chains and graphs.

It knows what a golden file tells (layers, rules, constants) and the weights, and merges batch norms into the layer before them. Sums are
matrix products whose terms come in an order of its own, forward and backward.
"""

import numpy as np

#: Of the terms of each sum: as they are, backward, shuffled; "uneven": every other output in another order, so that equal pixels don't tie;
#: "chain": one after the other, as a plain loop has it (slow).
ORDERS = ("plain", "backward", "shuffled", "uneven", "chain")
WEIGHTED = ("conv", "dense")


class Port:
    """A network of another implementation.

    Parameters
    ----------
    facts : mapping
        Of golden values: layers with their rules, start, targets.
    arrays : mapping of str to mapping of str to ndarray
        By layer, what it has: kernel, bias, gamma, ...
    dtype : "float32" or "float64"
    order : one of `ORDERS`
    seed : int
        Of shuffled orders.
    """

    def __init__(self, facts, arrays, dtype="float64", order="plain", seed=0):
        self.facts, self.dtype, self.order = facts, np.dtype(dtype), order
        self.rng = np.random.default_rng(seed)
        self.rows = facts["layers"][1:]
        before, self.inputs = "input", {}
        for row in self.rows:
            self.inputs[row["name"]] = row.get("inputs") or [before]
            before = row["name"]
        self.arrays = {name: {key: np.asarray(each, self.dtype) for key, each in of.items()} for name, of in arrays.items()}
        self.merged = {}
        for row in self.rows:
            if row.get("merged"):
                self.merge(row)
        self.orders = {}

    def merge(self, row):
        """Merge a batch norm into the layer before it: its weights and bias are the merged ones from here on."""
        (name,) = self.inputs[row["name"]]
        of, own = self.arrays[row["name"]], self.arrays[name]
        scale = of["gamma"] / np.sqrt(of["variance"] + self.dtype.type(row["epsilon"]))
        bias = own.get("bias", np.zeros(len(scale), self.dtype))
        self.merged[row["name"]] = name
        self.arrays[name] = {"kernel": own["kernel"] * scale, "bias": (bias - of["mean"]) * scale + of["beta"]}

    def product(self, a, w):
        """[..., n] x [n, m], summed in this port's order"""
        n = len(w)
        if self.order == "plain":
            return a @ w
        if self.order == "chain":
            z = np.zeros((*a.shape[:-1], w.shape[1]), a.dtype)
            for k in range(n):
                z += a[..., k, None] * w[k]
            return z
        p = np.arange(n)[::-1] if self.order == "backward" else self.orders.setdefault(n, self.rng.permutation(n))
        z = np.ascontiguousarray(a[..., p]) @ np.ascontiguousarray(w[p])
        if self.order == "uneven":
            z[..., ::2, :] = (a @ w)[..., ::2, :]
        return z

    def taps(self, row):
        """Return pads, and for each place of the window (rows, columns) of the padded image that it sees."""
        (kh, kw), (down, across), _, padding = row["window"]
        height, width = row["input_shape"][:2]
        rows, columns = row["output_shape"][:2]
        if padding == "same":
            total = [max((rows - 1) * down + kh - height, 0), max((columns - 1) * across + kw - width, 0)]
            pads = [total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2]
        else:
            pads = [0, 0, 0, 0] if padding == "valid" else list(padding)
        spans = [
            (slice(i, i + (rows - 1) * down + 1, down), slice(j, j + (columns - 1) * across + 1, across))
            for i in range(kh)
            for j in range(kw)
        ]
        return pads, spans

    def windows(self, x, row, fill=0.0):
        """[n, h, w, c] -> [n, ho, wo, places, c]"""
        (top, bottom, left, right), spans = self.taps(row)
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
        return np.stack([x[:, i, j] for i, j in spans], axis=-2)

    def spread(self, t, row):
        """[n, ho, wo, places, c] -> [n, h, w, c]: the transpose of `windows`"""
        (top, bottom, left, right), spans = self.taps(row)
        height, width, channels = row["input_shape"]
        x = np.zeros((len(t), height + top + bottom, width + left + right, channels), t.dtype)
        places = list(enumerate(spans))
        for k, (i, j) in places if self.order == "plain" else places[::-1]:
            x[:, i, j] += t[..., k, :]
        return x[:, top : top + height, left : left + width]

    def linear(self, a, w, row):
        if row["kind"] == "dense":
            return self.product(a, w)
        t = self.windows(a, row)
        return self.product(t.reshape(*t.shape[:3], -1), w.reshape(-1, w.shape[-1]))

    def back(self, s, w, row):
        if row["kind"] == "dense":
            return self.product(s, w.T)
        t = self.product(s, w.reshape(-1, w.shape[-1]).T)
        return self.spread(t.reshape(*s.shape[:3], -1, w.shape[2]), row)

    def sum_of(self, row, xs):
        """Return a layer's numbers before its activation."""
        name, kind, x = row["name"], row["kind"], xs[0]
        if kind in WEIGHTED:
            of = self.arrays[name]
            return self.linear(x, of["kernel"], row) + of.get("bias", self.dtype.type(0))
        if kind == "maxpool":
            return self.windows(x, row, -np.inf).max(axis=-2)
        if kind == "add":
            return xs[0] + xs[1]
        if kind == "concatenate":
            return np.concatenate(xs, axis=-1)
        if kind == "flatten":
            return x.reshape(len(x), -1)
        assert kind in ("activation", "batchnorm", "dropout"), kind  # a batch norm lives in its neighbour
        return x

    def run(self, row, xs):
        z = self.sum_of(row, xs)
        if row["activation"] == "relu":
            return np.maximum(z, 0)
        if row["activation"] == "softmax":
            e = np.exp(z - z.max(axis=-1, keepdims=True))
            return e / e.sum(axis=-1, keepdims=True)
        return z

    def forward(self, x):
        """Return every layer's output by its name, and the logits."""
        values = {"input": np.asarray(x, self.dtype)}
        for row in self.rows:
            xs = [values[name] for name in self.inputs[row["name"]]]
            values[row["name"]] = self.run(row, xs)
        self.logits = self.sum_of(row, xs)
        return values

    def start(self, values):
        start, last = self.facts["start"], self.rows[-1]["name"]
        chosen = np.zeros(self.logits.shape, self.dtype)
        if self.facts["targets"] is None:
            chosen[...] = 1
        else:
            chosen[np.arange(len(chosen)), self.facts["targets"]] = 1
        numbers = {"one": 1, "logit": self.logits, "softmax": values[last]}[start]
        return (chosen * numbers).astype(self.dtype)

    def divide(self, R, z, rule):
        epsilon = self.dtype.type(rule["epsilon"])
        if rule["stabiliser"] == "plus":
            return R / (z + epsilon)
        return R / (z + np.where(z < 0, -epsilon, epsilon))

    def give(self, row, xs, y, R):
        """Return what a layer gives to each of its inputs."""
        rule, kind, x = row["rule"], row["kind"], xs[0]
        if kind == "add":
            s = self.divide(R, xs[0] + xs[1], rule)
            return [each * s for each in xs]
        if kind == "concatenate":
            return np.split(R, np.cumsum([each.shape[-1] for each in xs])[:-1], axis=-1)
        if kind == "maxpool":
            t = self.windows(x, row, -np.inf)
            won = np.arange(t.shape[-2])[:, None] == t.argmax(axis=-2)[..., None, :]
            if rule["name"] == "winner_epsilon":
                return [x * self.spread(won * self.divide(R, t.max(axis=-2), rule)[..., None, :], row)]
            return [self.spread(won * R[..., None, :], row)]
        if kind == "flatten":
            return [R.reshape(x.shape)]
        return [R] if kind not in WEIGHTED else [self.weighted(row, rule, x, R)]

    def weighted(self, row, rule, x, R):
        """Return relevance of a layer with weights, by its rule."""
        of, zero = self.arrays[row["name"]], self.dtype.type(0)
        w, b = of["kernel"], of.get("bias", np.zeros(of["kernel"].shape[-1], self.dtype))
        p, n = (np.maximum(w, zero), np.minimum(w, zero))
        xp, xn = np.maximum(x, zero), np.minimum(x, zero)

        def share(R, terms, bias):
            z = sum(self.linear(a, v, row) for a, v in terms) + bias
            s = self.divide(R, z, rule)
            return sum(a * self.back(s, v, row) for a, v in terms)

        def cut(alpha, beta):
            R_p = share(alpha * R, [(xp, p), (xn, n)], np.maximum(b, zero))
            return R_p - share(beta * R, [(xp, n), (xn, p)], np.minimum(b, zero)) if beta else R_p

        name = rule["name"]
        if name == "epsilon":
            return share(R, [(x, w)], b)
        if name == "zplus":
            return cut(self.dtype.type(1), 0)
        if name == "alpha_beta":
            return cut(self.dtype.type(rule["alpha"]), self.dtype.type(rule["beta"]))
        if name == "flat":
            return share(R, [(np.ones_like(x), np.ones_like(w))], zero)
        if name == "zbox":
            low, high = (np.broadcast_to(np.asarray(rule[key], self.dtype), x.shape) for key in ("low", "high"))
            z = self.linear(x, w, row) - self.linear(low, p, row) - self.linear(high, n, row)
            s = self.divide(R, z, rule)
            return x * self.back(s, w, row) - low * self.back(s, p, row) - high * self.back(s, n, row)
        assert name == "gamma", name
        g, z = self.dtype.type(rule["gamma"]), self.linear(x, w, row) + b
        up = share(np.where(z > 0, R, zero), [(xp, w + g * p), (xn, w + g * n)], b + g * np.maximum(b, zero))
        return up + share(np.where(z < 0, R, zero), [(xp, w + g * n), (xn, w + g * p)], b + g * np.minimum(b, zero))

    def backward(self, values, R, isolated=None):
        """Return relevance by layer and along edges, from that of the top, or (isolated) from given relevances of every layer."""
        found, edges = {}, {}
        top = self.rows[-1]["name"]
        found[top] = R
        readers = {}
        for row in self.rows:
            for name in self.inputs[row["name"]]:
                readers.setdefault(name, []).append(row["name"])
        for row in self.rows[::-1]:
            above = found[row["name"]] if isolated is None else np.asarray(isolated[row["name"]], self.dtype)
            xs = [values[name] for name in self.inputs[row["name"]]]
            for name, part in zip(self.inputs[row["name"]], self.give(row, xs, values[row["name"]], above), strict=True):
                if len(readers[name]) > 1:
                    edges[row["name"], name] = part
                found[name] = found[name] + part if name in found and name != top else part
        return found, edges

    def hidden(self):
        """Return the layers whose own output it doesn't have: those that a batch norm is merged into."""
        return set(self.merged.values())

    def end_to_end(self, x):
        """Return (activations, relevances, edges) of a run from end to end."""
        values = self.forward(x)
        relevances, edges = self.backward(values, self.start(values))
        return {name: each for name, each in values.items() if name not in self.hidden()}, relevances, edges

    def by_layer(self, activations, relevances):
        """Return (relevances, edges) of every layer alone, on golden activations and relevances."""
        values = {name: np.asarray(each, self.dtype) for name, each in activations.items()}
        found, edges = self.backward(values, np.asarray(relevances[self.rows[-1]["name"]], self.dtype), relevances)
        return {name: each for name, each in found.items() if name != self.rows[-1]["name"]}, edges


def port_of(recorded, model, dtype="float64", order="plain", seed=0, **changed):
    """Return a port of what was recorded; `changed` are arrays of layers to be put in place of the model's, as {layer: {key: array}}."""
    arrays = {layer.name: {**layer.arrays, **changed.get(layer.name, {})} for layer in model.layers}
    return Port(recorded.facts, arrays, dtype, order, seed)
