"""Zennit as a backend of `nplrp golden check --backend`: its own presets, with the relevance of every layer.

nplrp golden check G -w W --backend "PYTHON examples/zennit_backend.py"       PYTHON has torch and zennit; batch norms aren't supported
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

_register = torch.library.register_fake
# Zennit imports torchvision and uses none of its operators: one of another build will do
torch.library.register_fake = lambda op, *a, **k: (lambda f: f) if str(op).startswith("torchvision::") else _register(op, *a, **k)

import zennit.composites as zc  # noqa: E402

PRESETS = {
    "epsilon_plus": zc.EpsilonPlus,
    "epsilon_plus_flat": zc.EpsilonPlusFlat,
    "epsilon_alpha2_beta1": zc.EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": zc.EpsilonAlpha2Beta1Flat,
    "excitation_backprop": zc.ExcitationBackprop,
    "epsilon_gamma_box": lambda low, high: zc.EpsilonGammaBox(*(torch.tensor(v).reshape(1, -1, 1, 1) for v in (low, high))),
}


def read(folder):
    rows = [line.split(" ") for line in (folder / "contents.txt").read_text().splitlines()]
    return {row[-1]: torch.tensor(np.fromfile(folder / row[0], "<" + row[1]).reshape([int(n) for n in row[3:-1]])) for row in rows}


def module(layer, arrays):
    w, b = (arrays.get(f"weights/{layer['name']}/{key}") for key in ("kernel", "bias"))
    if layer["kind"] == "conv":
        made = torch.nn.Conv2d(w.shape[2], w.shape[3], w.shape[:2], padding="same")
        made.weight.data, made.bias.data = w.permute(3, 2, 0, 1).contiguous(), b
    elif layer["kind"] == "dense":
        made = torch.nn.Linear(*w.shape)
        made.weight.data, made.bias.data = w.T.contiguous(), b
    else:
        made = {"maxpool": lambda: torch.nn.MaxPool2d(2), "flatten": torch.nn.Identity}[layer["kind"]]()
    return torch.nn.Sequential(made, torch.nn.ReLU()) if layer["activation"] == "relu" else made


def nhwc(x):
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().contiguous().numpy()


def main(source, target):
    arrays, about = read(Path(source)), json.loads((Path(source) / "about.json").read_text())
    layers = about["layers"][1:]
    modules = torch.nn.ModuleList(module(layer, arrays) for layer in layers)
    first = layers[0]["rule"]
    box = {"low": first["low"], "high": first["high"]} if first["name"] == "zbox" else {}
    with PRESETS[about["composite"]](**box).context(modules):
        x = arrays["input"].float().permute(0, 3, 1, 2).requires_grad_()
        trail = [x]
        for layer, each in zip(layers, modules, strict=True):
            a = trail[-1].permute(0, 2, 3, 1).flatten(1) if layer["kind"] == "flatten" else trail[-1]
            trail.append(each(a))
        start = torch.nn.functional.one_hot(torch.tensor(about["targets"]), trail[-1].shape[1]).float()
        relevances = torch.autograd.grad(trail[-1], trail, start)
    names = [row["name"] for row in about["layers"]]
    found = {f"relevances/{name}": nhwc(R) for name, R in zip(names, relevances, strict=True)}
    found |= {f"activations/{name}": nhwc(a) for name, a in zip(names[:-1], trail, strict=False)}
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
