"""Runs PyTorch alone for the coordinator: forward, forward and gradient, and single layers."""

import sys

import numpy as np
import torch
import torch_graph
from protocol import Jobs, images, is_graph, read_network, serve
from torch import nn
from torch_vgg import array, build, tensor


def main(network):
    """Serve jobs on both memory formats."""
    layers, models = read_network(network), {}
    side = layers[0]["input_shape"][0]

    def net(channels_last, merge=False):
        key = channels_last, merge
        if key not in models:
            model = torch_graph.build(layers, merge=merge) if is_graph(layers) else build(layers)
            models[key] = model.to(memory_format=torch.channels_last) if channels_last else model
        return models[key]

    def forward(batch, channels_last, merge=False):
        x, chosen = tensor(images(batch, side), channels_last), net(channels_last, merge)

        def run():
            with torch.inference_mode():
                return chosen(x).numpy()

        return run

    def gradient(batch, channels_last, merge=False):
        x, chosen = tensor(images(batch, side), channels_last).requires_grad_(), net(channels_last, merge)

        def run():
            logits = chosen(x)
            return torch.autograd.grad(logits.max(1).values.sum(), x)[0].detach().numpy()

        return run

    def convs(batch, channels_last):
        work, chosen, a = [], net(channels_last), tensor(images(batch), channels_last)
        with torch.inference_mode():
            for module in chosen.features:
                if isinstance(module, nn.Conv2d):
                    work.append((module, a))
                a = module(a)

        def run():
            with torch.inference_mode():
                for module, a in work:
                    z = module(a)
            return z.numpy()

        return run

    def accuracy(inputs, outputs):
        """As `worker_nplrp.accuracy`, in channels_last: ``NAME.32`` and ``NAME.s.32``."""
        given, found = np.load(inputs), {}
        chosen = net(True)
        modules = [module for module in (*chosen.features, *chosen.classifier) if isinstance(module, (nn.Conv2d, nn.Linear))]
        named = [layer for layer in layers if layer["kind"] in ("conv", "dense")]
        shape = next(layer["input_shape"] for layer in layers if layer["kind"] == "flatten")
        with torch.inference_mode():
            for layer, module in zip(named, modules, strict=True):
                name = layer["name"]
                if name in given:
                    found[f"{name}.32"] = _apply(module, given[name], shape if module is chosen.classifier[0] else None)
                if f"{name}.s" in given:
                    s = tensor(given[f"{name}.s"], channels_last=True)
                    c = nn.functional.conv_transpose2d(s, module.weight, padding=module.padding)
                    found[f"{name}.s.32"] = array(c)
        np.savez(outputs, **found)

    def decisions(inputs, outputs, channels_last):
        """Write what ReLUs and pools decide about an image: ``relu0`` ... [n, h, w, c] or [n, units], ``pool0`` ... as places."""
        a, found, chosen = tensor(np.load(inputs)["x"], channels_last), {}, net(channels_last)
        with torch.inference_mode():
            for module in chosen.features:
                if isinstance(module, nn.MaxPool2d):
                    width = a.shape[3]
                    a, places = nn.functional.max_pool2d(a, 2, return_indices=True)
                    found[f"pool{sum(key.startswith('pool') for key in found)}"] = array(places // width % 2 * 2 + places % width % 2)
                else:
                    a = module(a)
                if isinstance(module, nn.ReLU):
                    found[f"relu{sum(key.startswith('relu') for key in found)}"] = array(a) > 0
        np.savez(outputs, **found)

    jobs = Jobs({"forward": forward, "gradient": gradient, "convs": convs}, torch.set_num_threads)
    facts = {"torch": torch.__version__}
    serve({"facts": lambda: facts, "accuracy": accuracy, "decisions": decisions, **jobs.commands()})


def _apply(module, a, shape):
    """Apply a module to [n, h, w, c], or a dense one to [n, units]; `shape` (h, w, c) if those come in this order."""
    if isinstance(module, nn.Conv2d):
        return array(module(tensor(a, channels_last=True)))
    if shape:
        a = a.reshape(len(a), *shape).transpose(0, 3, 1, 2).reshape(len(a), -1)
    return module(torch.from_numpy(np.ascontiguousarray(a))).numpy()


if __name__ == "__main__":
    main(sys.argv[1])
