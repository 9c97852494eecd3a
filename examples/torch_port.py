"""Epsilon-plus LRP of the demonstration's VGG16 in PyTorch: a port to be checked (docs/golden-tutorial.md).

python examples/torch_port.py IN OUT.npz [--bug]     IN: a folder of `nplrp golden export --to raw --dtype float32`
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

EPS = 1e-6


def read(folder):
    rows = [line.split(" ") for line in (folder / "contents.txt").read_text().splitlines()]
    return {row[-1]: torch.tensor(np.fromfile(folder / row[0], "<" + row[1]).reshape([int(n) for n in row[3:-1]])) for row in rows}


def linear(layer, w, b):
    """The layer as a function of its input: NCHW, OIHW."""
    if layer["kind"] == "dense":
        return lambda a: a @ w + b
    return lambda a: F.conv2d(a, w.permute(3, 2, 0, 1), b, padding="same")


def redistribute(R, a, f):
    a = a.detach().requires_grad_()
    z = f(a)
    s = R / (z + EPS * torch.where(z < 0, -1.0, 1.0)).detach()
    return (a * torch.autograd.grad(z, a, s)[0]).detach()


def main(source, target, bug):
    arrays, about = read(Path(source)), json.loads((Path(source) / "about.json").read_text())
    a, trail, found = arrays["input"].float().permute(0, 3, 1, 2), [], {}
    merged = None  # a batch norm y = g a + h is merged into the dense layer behind it
    for layer in about["layers"][1:]:
        w, b, *norm = (arrays.get(f"weights/{layer['name']}/{key}") for key in ("kernel", "bias", "gamma", "beta", "mean", "variance"))
        if layer["kind"] == "batchnorm":
            g = norm[0] / torch.sqrt(norm[3] + layer["epsilon"])
            merged = g, norm[1] - norm[2] * g
        elif merged and w is not None:
            w, b, merged = merged[0][:, None] * w, b + merged[1] @ w, None
        trail.append((layer, a, w, b))
        if layer["kind"] == "maxpool":
            a = F.max_pool2d(a, 2)
        elif layer["kind"] == "flatten":
            a = a.permute(0, 2, 3, 1).flatten(1)
        elif w is not None:
            z = linear(layer, w, b)(a)
            a = {"relu": F.relu, "softmax": lambda z: z.softmax(-1)}.get(layer["activation"], lambda z: z)(z)
        if layer["kind"] != "batchnorm":
            found[f"activations/{layer['name']}"] = a
    R = torch.zeros_like(a)
    R[torch.arange(len(a)), about["targets"]] = 1.0
    below = [row["name"] for row in about["layers"]]
    found[f"relevances/{below[-1]}"] = R
    for i, (layer, a, w, b) in reversed(list(enumerate(trail))):
        if layer["kind"] == "maxpool":
            x = a.detach().requires_grad_()
            R = torch.autograd.grad(F.max_pool2d(x, 2), x, R)[0]
        elif layer["kind"] == "flatten":
            R = R.reshape(len(R), *layer["input_shape"]).permute(0, 3, 1, 2)
        elif layer["kind"] == "conv":  # z+: inputs split by sign, b+
            positive = linear(layer, w.clamp(min=0), b if bug else b.clamp(min=0))
            negative = linear(layer, w.clamp(max=0), torch.zeros_like(b))
            both = lambda a, p=positive, n=negative: p(a.clamp(min=0)) + n(a.clamp(max=0))  # noqa: E731
            R = redistribute(R, a, both)
        elif w is not None:
            R = redistribute(R, a, linear(layer, w, b))
        found[f"relevances/{below[i]}"] = R
    np.savez(target, **{key: (v.permute(0, 2, 3, 1) if v.ndim == 4 else v).detach().numpy() for key, v in found.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--bug" in sys.argv)
