"""Somebody else's port: float32 LRP in plain NumPy that knows nothing of nplrp's engine, with the mistakes that people make.

`Port` runs a network of `tests.networks` from end to end, forward and backward, by the rules that a golden file names. A mistake is a word
(and perhaps a number) that its code asks for at one layer (`self.wrong`): most are from the trackers of Zennit, Captum, iNNvestigate,
lrp_toolbox, TorchLRP, Pytorch-LRP and atulshanbhag's notebook, other readings of a rule in RelevancePropagation.jl and the tutorial, or
what a first version of a port does: axes, order of channels, padding, precision.
"""

import numpy as np

F = np.float32


class Port:
    """[n, h, w, c] float32 -> activations and relevances by layer's name.

    Parameters
    ----------
    model : Model
        Its layers' arrays, windows and inputs are read, nothing of it is run.
    facts : mapping
        Of the golden values: every layer's rule with its constants, the start, the targets.
    mistake : (str, str, object), or None
        Layer, what is wrong there, and with which number.
    """

    def __init__(self, model, facts, mistake=None):
        self.layers, self.facts, self.mistake = list(model), facts, mistake
        self.rules = {row["name"]: row["rule"] for row in facts["layers"]}
        self.arrays = {layer.name: {key: np.array(a, F) for key, a in layer.arrays.items()} for layer in self.layers}
        self.reads, before = {}, "input"
        for layer in self.layers:
            self.reads[layer.name] = list(layer.inputs) or [before]
            before = layer.name

    def wrong(self, layer, what):
        """The number of a mistake at a layer (True if it has none), or None."""
        if self.mistake is None or self.mistake[:2] != (layer, what):
            return None
        return True if self.mistake[2] is None else self.mistake[2]

    # forward

    def forward(self, x):
        found = {"input": np.array(x, F)}
        if self.wrong("input", "mean kept"):
            found["input"] = found["input"] + F([103.939, 116.779, 123.68]) / F(60)
        if self.wrong("input", "0..1"):
            found["input"] = found["input"] / F(255)
        if self.wrong("input", "RGB"):
            found["input"] = found["input"][..., ::-1].copy()
        if self.wrong("input", "rows and columns"):
            found["input"] = found["input"].swapaxes(1, 2).copy()
        if self.wrong("input", "mirrored"):
            found["input"] = found["input"][:, :, ::-1].copy()
        self.logits = None
        for layer in self.layers:
            xs = [found[name] for name in self.reads[layer.name]]
            z = self.compute(layer, xs)
            if layer.activation == "softmax":
                self.logits = z
                z = np.exp(z - z.max(-1, keepdims=True))
                z = z / z.sum(-1, keepdims=True)
            elif layer.activation == "relu" or layer.kind == "activation":
                z = self.bend(layer.name, z)
            found[layer.name] = z
        self.values = found
        return found

    def bend(self, name, z):
        if self.wrong(name, "no ReLU"):
            return z
        if self.wrong(name, "leaky"):
            return np.where(z > 0, z, F(self.wrong(name, "leaky")) * z)
        if self.wrong(name, "ReLU6"):
            return np.clip(z, F(0), F(self.wrong(name, "ReLU6")))
        if self.wrong(name, "dropout"):
            return np.maximum(z, 0) * F(self.wrong(name, "dropout"))
        return np.maximum(z, 0)

    def compute(self, layer, xs):
        name, kind, x = layer.name, layer.kind, xs[0]
        if kind in ("conv", "dense"):
            w, b = self.weights(name)
            if self.wrong(name, "forward without bias"):
                b = 0 * b
            if self.wrong(name, "forward kernel flipped"):
                w = w[::-1, ::-1]
            if self.wrong(name, "forward weight"):
                w = w.copy()
                w[self.mistake[2][0]] = self.mistake[2][1]
            if self.wrong(name, "forward bias"):
                b = b.copy()
                b[self.mistake[2][0]] = self.mistake[2][1]
            if self.wrong(name, "forward matrix transposed"):
                w = w.T
            if self.wrong(name, "forward CHW"):
                x = x.reshape(len(x), *self.mistake[2]).transpose(0, 3, 1, 2).reshape(len(x), -1)
            if self.wrong(name, "forward half"):
                x, w = (v.astype(np.float16).astype(F) for v in (x, w))
            if self.wrong(name, "forward padding"):
                return self.linear(layer, np.roll(x, 1, 1), w) + b
            return self.linear(layer, x, w) + b
        if kind == "maxpool":
            places = self.places(layer, x)
            return places.mean(3) if self.wrong(name, "forward average") else places.max(3)
        if kind == "flatten":
            return x.transpose(0, 3, 1, 2).reshape(len(x), -1) if self.wrong(name, "CHW") else x.reshape(len(x), -1)
        if kind == "batchnorm":
            p = self.arrays[name]
            epsilon = self.wrong(name, "norm's epsilon") or layer.epsilon
            mean, variance = p["mean"], p["variance"]
            if self.wrong(name, "batch statistics"):
                mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
            if self.wrong(name, "no norm"):
                return x
            return (x - mean) * (p["gamma"] / np.sqrt(variance + F(epsilon))) + p["beta"]
        if kind == "add":
            return xs[1] if self.wrong(name, "skip left out") else xs[0] + xs[1]
        if kind == "concatenate":
            return np.concatenate(xs[::-1] if self.wrong(name, "other order") else xs, -1)
        assert kind == "activation", kind
        return x

    def weights(self, name):
        p = self.arrays[name]
        return p["kernel"], p["bias"]

    # windows as matrices

    def pads(self, layer, shape):
        window = layer.window
        if not isinstance(window.padding, str):
            return window.padding
        found = []
        for n, k, s in zip(shape, window.size, window.stride, strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0) if window.padding == "same" else 0
            few = total // 2
            found += [total - few, few] if self.wrong(layer.name, "padding at the other side") else [few, total - few]
        return found

    def windows(self, layer, x, fill=0.0):
        """[n, h, w, c] -> [n, ho, wo, kh kw, c]"""
        (kh, kw), (sy, sx) = layer.window.size, layer.window.stride
        t, b, l, r = self.pads(layer, x.shape[1:3])
        x = np.pad(x, ((0, 0), (t, b), (l, r), (0, 0)), constant_values=fill)
        rows, columns = (x.shape[1] - kh) // sy + 1, (x.shape[2] - kw) // sx + 1
        taps = [x[:, i : i + (rows - 1) * sy + 1 : sy, j : j + (columns - 1) * sx + 1 : sx] for i in range(kh) for j in range(kw)]
        return np.stack(taps, 3)

    def places(self, layer, x):
        return self.windows(layer, x, -np.inf)

    def unwindow(self, layer, parts, shape, overwrite=False):
        """[n, ho, wo, kh kw, c] -> [n, h, w, c], summed where windows meet"""
        (kh, kw), (sy, sx) = layer.window.size, layer.window.stride
        t, b, l, r = self.pads(layer, shape[1:3])
        found = np.zeros((shape[0], shape[1] + t + b, shape[2] + l + r, shape[3]), F)
        rows, columns = parts.shape[1:3]
        for i in range(kh):
            for j in range(kw):
                view = found[:, i : i + (rows - 1) * sy + 1 : sy, j : j + (columns - 1) * sx + 1 : sx]
                if overwrite:
                    view[...] = np.where(parts[:, :, :, i * kw + j] != 0, parts[:, :, :, i * kw + j], view)
                else:
                    view += parts[:, :, :, i * kw + j]
        return found[:, t : t + shape[1], l : l + shape[2]]

    def linear(self, layer, x, w):
        if w.ndim == 2:
            return x @ w
        taps = self.windows(layer, x)
        return taps.reshape(*taps.shape[:3], -1) @ np.ascontiguousarray(w).reshape(-1, w.shape[-1])

    def transposed(self, layer, s, w, shape):
        if w.ndim == 2:
            return s @ w.T
        parts = s @ np.ascontiguousarray(w).reshape(-1, w.shape[-1]).T
        return self.unwindow(layer, parts.reshape(*s.shape[:3], w.shape[0] * w.shape[1], w.shape[2]), shape)

    # backward

    def start(self):
        logits, targets = self.logits, self.facts["targets"]
        rows, top = np.arange(len(logits)), self.layers[-1].name
        targets = np.array(targets) if targets is not None else logits.argmax(-1)
        if self.wrong(top, "other class"):
            targets = (targets + self.mistake[2]) % logits.shape[1]
        R = np.zeros_like(logits)
        R[rows, targets] = logits[rows, targets] if self.facts["start"] == "logit" else 1
        if self.wrong(top, "start one"):
            R[rows, targets] = 1
        if self.wrong(top, "start softmax"):
            R[rows, targets] = self.values[top][rows, targets]
        if self.wrong(top, "start all logits"):
            R = logits.copy()
        if self.wrong(top, "start half"):
            R = R / F(2)
        return R

    def backward(self):
        top = self.layers[-1].name
        found = {top: self.start()}
        for layer in self.layers[::-1]:
            name = layer.name
            R = found[name]
            if self.wrong(name, "R cut at 0"):
                R = np.maximum(R, 0)
            xs = [self.values[each] for each in self.reads[name]]
            given = self.back(layer, xs, R.reshape(self.values[name].shape))
            for each, share in zip(self.reads[name], given, strict=True):
                found[each] = found[each] + share if each in found else share
        return found

    def back(self, layer, xs, R):
        name, kind, x = layer.name, layer.kind, xs[0]
        rule = self.rules[name]
        if kind in ("conv", "dense"):
            return [self.after(layer, self.of_rule(layer, x, R), x, R)]
        if kind == "maxpool":
            return [self.after(layer, self.of_pool(layer, x, R), x, R)]
        if kind == "flatten":
            if self.wrong(name, "CHW back"):
                return [R.reshape(len(R), x.shape[3], x.shape[1], x.shape[2]).transpose(0, 2, 3, 1)]
            return [R.reshape(x.shape)]
        if kind == "add":
            if self.wrong(name, "all to both"):
                return [R, R]
            if self.wrong(name, "half to each"):
                return [R / 2, R / 2]
            if self.wrong(name, "by absolute values"):
                return [np.abs(a) / (np.abs(xs[0]) + np.abs(xs[1]) + F(1e-6)) * R for a in xs]
            if self.wrong(name, "all to the first"):
                return [R, 0 * R]
            z = xs[0] + xs[1]
            s = R / self.stable(rule, z, name)
            if self.wrong(name, "branches exchanged"):
                return [xs[1] * s, xs[0] * s]
            return [a * s for a in xs]
        if kind == "concatenate":
            cuts = np.cumsum([a.shape[-1] for a in xs])[:-1]
            if self.wrong(name, "cut in other order"):
                first = xs[1].shape[-1]
                return [R[..., first:], R[..., :first]]
            return np.split(R, cuts, -1)
        if kind == "activation" and self.wrong(name, "slope"):
            return [R * (x > 0)]
        return [R]  # norms live in the convolution below, activations hand on

    def merged(self, layer):
        """Weights with the batch norm behind them."""
        w, b = self.weights(layer.name)
        after = next((each for each in self.layers if each.kind == "batchnorm" and self.reads[each.name] == [layer.name]), None)
        if after is None or self.wrong(layer.name, "norm not merged"):
            return w, b
        p = self.arrays[after.name]
        epsilon = self.wrong(layer.name, "norm's epsilon") or after.epsilon
        g = p["gamma"] / np.sqrt(p["variance"] + F(epsilon))
        if self.wrong(layer.name, "norm's shift forgotten"):
            return w * g, b * g
        return w * g, (b - p["mean"]) * g + p["beta"]

    def stable(self, rule, z, name):
        e, how = F(rule.get("epsilon") or 0), rule.get("stabiliser") or "sign"
        sign = np.where(z < 0, F(-1), F(1))
        if self.wrong(name, "epsilon"):
            e = F(self.mistake[2])
        if self.wrong(name, "epsilon without sign"):
            return z + F(self.mistake[2])
        if self.wrong(name, "epsilon subtracted"):
            return z - F(self.mistake[2]) * sign
        if self.wrong(name, "epsilon of deviations"):
            return z + F(self.mistake[2]) * z.std() * sign
        if self.wrong(name, "epsilon of rms"):
            return z + F(self.mistake[2]) * np.sqrt((z * z).mean()) * sign
        if self.wrong(name, "epsilon of mean"):
            return z + F(self.mistake[2]) * np.abs(z).mean() * sign
        if self.wrong(name, "epsilon clips"):
            return np.where(np.abs(z) < F(self.mistake[2]), F(self.mistake[2]) * sign, z)
        if self.wrong(name, "absolute denominator"):
            return np.abs(z) + e
        if how == "drop" or e == 0:
            return np.where(z == 0, F(np.inf), z)
        return z + (e if how == "plus" else e * sign)

    def of_rule(self, layer, x, R):
        rule, wrong = self.rules[layer.name], lambda what: self.wrong(layer.name, what)
        w, b = self.merged(layer)
        b, w = self.spoilt_bias(b, wrong), self.spoilt_weight(w, wrong)
        kind = wrong("other rule") or rule["name"]
        if wrong("half inputs"):
            x, w = (v.astype(np.float16).astype(F) for v in (x, w))
        if wrong("half weights"):
            w = w.astype(np.float16).astype(F)
        if wrong("TF32"):
            x, w = tf32(x), tf32(w)
        if wrong("bfloat16"):
            x, w = bf16(x), bf16(w)
        up, down = np.maximum(w, 0), np.minimum(w, 0)
        above, below = np.maximum(x, 0), np.minimum(x, 0)
        bu, bd = np.maximum(b, 0), np.minimum(b, 0)
        how = {"changed": lambda change: change, "raw": lambda change: b, "none": lambda change: 0 * b}[rule.get("bias") or "none"]
        if kind in ("epsilon", "zero"):
            return self.lines(layer, [(x, w)], how(b), R, wrong)
        if kind == "zplus":
            if wrong("absolute weights"):
                return self.lines(layer, [(x, np.abs(w))], how(bu), R, wrong)
            if wrong("w- for w+"):
                return self.lines(layer, [(above, down), (below, up)], how(bd), R, wrong)
            if wrong("inputs not split"):
                return self.lines(layer, [(x, up)], how(bu), R, wrong)
            return self.lines(layer, [(above, up), (below, down)], how(bu), R, wrong)
        if kind == "gamma":
            g = F(wrong("gamma") or rule.get("gamma", 0.25))
            if wrong("one half"):
                return self.lines(layer, [(x, w + g * up)], how(b + g * bu), R, wrong)
            if wrong("gamma of w-"):
                up, down, bu, bd = down, up, bd, bu
            z = self.linear(layer, x, w) + b
            on, off = np.where(z > 0, R, F(0)), np.where(z < 0, R, F(0))
            first = self.lines(layer, [(above, w + g * up), (below, w + g * down)], how(b + g * bu), on, wrong)
            return first + self.lines(layer, [(above, w + g * down), (below, w + g * up)], how(b + g * bd), off, wrong)
        if kind == "alpha_beta":
            alpha, beta = wrong("alpha and beta") or (rule.get("alpha", 2.0), rule.get("beta", 1.0))
            if wrong("inputs not split"):
                gain, loss = [(x, up)], [(x, down)]
            else:
                gain, loss = [(above, up), (below, down)], [(above, down), (below, up)]
            low = 0 * b if wrong("no bias below") else how(bd)
            return F(alpha) * self.lines(layer, gain, how(bu), R, wrong) - F(beta) * self.lines(layer, loss, low, R, wrong)
        if kind == "zbox":
            low, high = (np.broadcast_to(np.array(v, F), x.shape) for v in wrong("box") or (rule["low"], rule["high"]))
            if wrong("box RGB"):
                low, high = low[..., ::-1], high[..., ::-1]
            if wrong("box exchanged"):
                low, high = high, low
            terms = [(x, w), (low, -up), (high, -down)]
            return self.lines(layer, terms[:2] if wrong("box without its top") else terms, 0 * b, R, wrong)
        if kind == "wsquare":
            power = F(wrong("power") or 2)
            return self.lines(layer, [(np.ones_like(x), np.abs(w) ** power)], 0 * b, R, wrong)
        assert kind == "flat", kind
        return self.lines(layer, [(np.ones_like(x), np.ones_like(w))], 0 * b, R, wrong)

    def spoilt_bias(self, b, wrong):
        if wrong("bias"):
            return b * F(self.mistake[2])
        if wrong("no bias"):
            return 0 * b
        if wrong("positive bias only"):
            return np.maximum(b, 0)
        if wrong("bias rolled"):
            return np.roll(b, 1)
        if wrong("bias of one unit"):
            b = b.copy()
            b[self.mistake[2][0]] = self.mistake[2][1]
        return b

    def spoilt_weight(self, w, wrong):
        if wrong("one weight"):
            w = w.copy()
            w[self.mistake[2][0]] = self.mistake[2][1]
        if wrong("a filter lost"):
            w = w.copy()
            w[..., self.mistake[2]] = 0
        if wrong("an input channel lost"):
            w = w.copy()
            w[..., self.mistake[2], :] = 0
        return w

    def lines(self, layer, terms, b, R, wrong):
        name, rule = layer.name, self.rules[layer.name]
        z = sum(self.linear(layer, x, w) for x, w in terms) + b
        full = self.merged(layer)
        if wrong("all of z below"):
            z = self.linear(layer, terms[0][0], full[0]) + full[1]
        s = R / self.stable(rule, z, name)
        if wrong("not divided"):
            s = R
        total = F(0)
        for term in terms:
            x, w = term
            if wrong("not flipped"):
                w = w[::-1, ::-1]
            if wrong("kernel's rows and columns"):
                w = w.transpose(1, 0, 2, 3)
            if wrong("plain weights above"):
                w = full[0]
            c = self.transposed(layer, s, w, x.shape)
            if wrong("padding off by one"):
                c = np.pad(c, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :-1, :-1]
            if wrong("not times a"):
                x = np.ones_like(x)
            if wrong("times a squared"):
                x = x * x
            if wrong("times |a|"):
                x = np.abs(x)
            total = total + x * c
        if wrong("bias shared among inputs"):
            seen = np.ones_like(terms[0][0])
            count = w.shape[0] if w.ndim == 2 else np.prod(w.shape[:3])
            total = total + self.transposed(layer, s * b / F(count), np.ones_like(w), seen.shape)
        return total

    def of_pool(self, layer, x, R):
        name, rule = layer.name, self.rules[layer.name]
        places = self.places(layer, x)
        best = places == places.max(3, keepdims=True)
        first = np.zeros_like(best)
        np.put_along_axis(first, places.argmax(3)[:, :, :, None], True, 3)
        share = first.astype(F)
        there = np.isfinite(places)
        if self.wrong(name, "ties all"):
            share = best.astype(F)
        if self.wrong(name, "ties shared"):
            share = best / best.sum(3, keepdims=True, dtype=F)
        if self.wrong(name, "last"):
            share = np.zeros_like(share)
            np.put_along_axis(share, places.shape[3] - 1 - places[:, :, :, ::-1].argmax(3)[:, :, :, None], F(1), 3)
        if self.wrong(name, "by activation"):
            filled = np.where(there, places, 0)
            share = filled / (filled.sum(3, keepdims=True) + F(1e-9))
        if self.wrong(name, "evenly"):
            share = there / there.sum(3, keepdims=True, dtype=F)
        if self.wrong(name, "smallest"):
            share = np.zeros_like(share)
            np.put_along_axis(share, np.where(there, places, np.inf).argmin(3)[:, :, :, None], F(1), 3)
        assert rule["name"] == "winner", rule
        return self.unwindow(layer, R[:, :, :, None] * share, x.shape, bool(self.wrong(name, "overwritten")))

    def after(self, layer, R, x, above):
        """What is done to relevance before it is handed on and kept."""
        wrong = lambda what: self.wrong(layer.name, what)  # noqa: E731
        simple = {
            "absolute": lambda: np.abs(R),
            "rectified": lambda: np.maximum(R, 0),
            "negated": lambda: -R,
            "mean of the batch": lambda: R / len(R),
            "times": lambda: R * F(self.mistake[2]),
            "sums to 1": lambda: R / R.sum(tuple(range(1, R.ndim)), keepdims=True),
            "sums to what came": lambda: R * (above.sum() / R.sum()),
            "largest is 1": lambda: R / np.abs(R).max(),
            "rows and columns": lambda: R.swapaxes(1, 2),
            "mirrored": lambda: R[:, :, ::-1],
            "upside down": lambda: R[:, ::-1],
            "channels backwards": lambda: R[..., ::-1],
            "rolled": lambda: np.roll(R, 1, 2),
            "batch backwards": lambda: R[::-1],
            "masked": lambda: R * (x > 0),
            "half": lambda: R.astype(np.float16).astype(F),
            "channels first": lambda: R.transpose(0, 3, 1, 2).reshape(R.shape),
        }
        for what, run in simple.items():
            if wrong(what):
                return np.ascontiguousarray(run())
        R = R.copy()
        if wrong("last row lost"):
            R[:, -1] = 0
        if wrong("a channel lost"):
            R[..., self.mistake[2]] = 0
        if wrong("a tile lost"):
            R[:, :4, 4:8] = 0
        if wrong("a border lost"):
            R[:, 0] = R[:, -1] = R[:, :, 0] = R[:, :, -1] = 0
        if wrong("one element"):
            R.reshape(-1)[np.abs(R).argmax()] *= 2
        if wrong("R of the layer above"):
            R = above.reshape(R.shape).copy()
        return R


def tf32(x):
    """Round to 10 bits of mantissa, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(F)


def bf16(x):
    """Round to 7 bits of mantissa, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(F)
