"""Build the test network in PyTorch from an .npz that `tests.test_peers` wrote. Runs without nplrp."""

import numpy as np
import torch


class Network(torch.nn.Module):
    """A chain of modules; flattens NHWC-wise before the first dense layer, as Keras does."""

    def __init__(self, kinds, arrays):
        super().__init__()
        self.kinds, self.steps = kinds, torch.nn.ModuleList()
        for i, kind in enumerate(kinds):
            if kind == "conv":
                kernel = torch.tensor(arrays[f"kernel{i}"].transpose(3, 2, 0, 1).copy())
                module = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], padding="same").double()
            elif kind == "dense":
                kernel = torch.tensor(arrays[f"kernel{i}"].T.copy())
                module = torch.nn.Linear(kernel.shape[1], kernel.shape[0]).double()
            else:
                module = {"relu": torch.nn.ReLU, "max": lambda: torch.nn.MaxPool2d(2), "avg": lambda: torch.nn.AvgPool2d(2)}[kind]()
            if kind in ("conv", "dense"):
                module.weight.data, module.bias.data = kernel, torch.tensor(arrays[f"bias{i}"])
            self.steps.append(module)

    def forward(self, x):
        """Return logits [n, classes] of x [n, 3, h, w]."""
        for kind, module in zip(self.kinds, self.steps, strict=True):
            if kind == "dense" and x.ndim == 4:
                x = x.permute(0, 2, 3, 1).flatten(1)
            x = module(x)
        return x


def load(path):
    """Return {name of network: (a function that makes it, x [n, 3, h, w], targets)}."""
    file = np.load(path)
    networks = {}
    for name in file["networks"]:
        kinds = [str(kind) for kind in file[f"{name}/kinds"]]
        arrays = {key.removeprefix(f"{name}/"): file[key] for key in file.files if key.startswith(f"{name}/")}
        x = torch.tensor(file["x"].transpose(0, 3, 1, 2).copy())
        networks[str(name)] = (lambda kinds=kinds, arrays=arrays: Network(kinds, arrays), x, torch.tensor(file["targets"]))
    return networks


def to_nhwc(x):
    """[n, c, h, w] tensor -> [n, h, w, c] array"""
    return np.ascontiguousarray(x.detach().numpy().transpose(0, 2, 3, 1))
