"""A backend in PyTorch, run in an interpreter of its own by `tests.golden.calibrate`: every rule from its table of parts.

python torch_backend.py JOB.npz OUT.npz isolated|chained     JOB: arrays of every step, and a JSON table ``job``
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F


class Step:
    def __init__(self, row, arrays, i):
        self.row, self.kind = row, row["kind"]
        self.w, self.b = (torch.from_numpy(arrays[f"{i}/{key}"]) if f"{i}/{key}" in arrays else None for key in ("weight", "bias"))
        if self.kind == "conv":
            self.w = self.w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def linear(self, x, w):
        """x [n, c, h, w] or [n, units] times w, no bias"""
        if self.kind == "dense":
            return x @ w
        top, bottom, left, right = self.row["pads"]
        return F.conv2d(F.pad(x, (left, right, top, bottom)), w, stride=self.row["stride"])

    def add_bias(self, z, b):
        return z + (b[:, None, None] if z.ndim == 4 else b)

    def pool(self, x):
        return F.max_pool2d(x, self.row["size"], self.row["stride"])

    def forward(self, a):
        if self.kind == "maxpool":
            z = self.pool(a)
        elif self.kind == "reshape":
            return a.permute(0, 2, 3, 1).flatten(1)
        elif self.kind == "identity":
            z = a
        else:
            z = self.add_bias(self.linear(a, self.w), self.b)
        activation = self.row["activation"]
        return F.relu(z) if activation == "relu" else torch.softmax(z, -1) if activation == "softmax" else z

    def back(self, R, a):
        if self.kind == "maxpool":
            x = a.detach().requires_grad_()
            z = self.pool(x)
            if self.row["rule"] == "winner_epsilon":
                return (x * torch.autograd.grad(z, x, self.divide(R, z.detach()))[0]).detach()
            return torch.autograd.grad(z, x, R)[0]
        if self.kind == "reshape":
            height, width, channels = self.row["input_shape"]
            return R.reshape(len(R), height, width, channels).permute(0, 3, 1, 2)
        if self.kind == "identity":
            return R
        total = torch.zeros_like(a)
        for part in self.row["parts"]:
            terms = [(self.changed_input(a, term[0]).detach().requires_grad_(), changed(self.w, term[1])) for term in part["terms"]]
            zs = [self.linear(x, w) for x, w in terms]
            z = self.add_bias(sum(zs), changed(self.b, part["bias"])).detach()
            carried = R
            if part["units"]:
                signs = self.add_bias(self.linear(a, self.w), self.b)
                carried = torch.where(signs > 0 if part["units"].endswith(">0") else signs < 0, R, 0.0)
            s = self.divide(part["weight"] * carried, z)
            for (x, _), each in zip(terms, zs, strict=True):
                total = total + (x * torch.autograd.grad(each, x, s, retain_graph=True)[0]).detach()
        return total

    def changed_input(self, a, change):
        if change in ("low", "high"):
            ends = torch.tensor(np.atleast_1d(self.row[change]), dtype=a.dtype)
            return ends[:, None, None].expand(a.shape[1:]).expand(a.shape).clone()
        return {"a": lambda: a, "1": lambda: torch.ones_like(a), "a+": lambda: a.clamp(min=0), "a-": lambda: a.clamp(max=0)}[change]()

    def divide(self, R, z):
        epsilon, name = self.row["epsilon"], self.row["stabiliser"]
        if name == "drop" or (name == "sign" and epsilon == 0):
            return torch.where(z == 0, 0.0, R / torch.where(z == 0, 1.0, z))
        return R / (z + (epsilon if name == "plus" else epsilon * torch.where(z < 0, -1.0, 1.0)))


def changed(w, change):
    if change == "square":
        return w * w
    if change == "ones":
        return torch.ones_like(w)
    positive, negative = change
    return positive * w.clamp(min=0) + negative * w.clamp(max=0)


def nchw(array):
    found = torch.from_numpy(array)
    return found.permute(0, 3, 1, 2) if found.ndim == 4 else found


def nhwc(array):
    return np.ascontiguousarray((array.permute(0, 2, 3, 1) if array.ndim == 4 else array).detach().numpy())


def main(job, target, mode):
    arrays = dict(np.load(job))
    table = json.loads(str(arrays.pop("job")))
    steps, names, found = [Step(row, arrays, i) for i, row in enumerate(table["steps"])], table["names"], {}
    if mode == "isolated":
        for i, step in enumerate(steps):
            R, a = nchw(arrays[f"relevances/{names[i + 1]}"]), nchw(arrays[f"activations/{names[i]}"])
            found[f"relevances/{names[i]}"] = step.back(R, a)
    else:
        trail = [nchw(arrays["x"])]
        for i, step in enumerate(steps):
            trail.append(step.forward(trail[-1]))
            found[f"activations/{names[i + 1]}"] = trail[-1]
        R = torch.from_numpy(arrays["start"]) if "start" in arrays else trail[-1]
        found[f"relevances/{names[-1]}"] = R
        for i in range(len(steps) - 1, -1, -1):
            found[f"relevances/{names[i]}"] = R = steps[i].back(R, trail[i])
    np.savez(target, **{name: nhwc(array) for name, array in found.items() if name not in table["hidden"]})


if __name__ == "__main__":
    main(*sys.argv[1:])
