"""Runs single convolutions in PyTorch, channels last, for `convolutions.py`."""

import time

import numpy as np
import torch
from conv_layers import NETWORKS
from protocol import SEED, serve
from torch import nn

work = []


def prepare(network, batch, threads):
    """Make a network's layers and their inputs."""
    torch.set_num_threads(threads)
    generator, memory = torch.Generator().manual_seed(SEED), {"memory_format": torch.channels_last}
    work.clear()
    for layer in NETWORKS[network]():
        w = torch.randn(layer.cout, layer.cin // layer.groups, *layer.kernel, generator=generator).to(**memory)
        x = torch.randn(batch, layer.cin, layer.side, layer.side, generator=generator).contiguous(**memory)
        s = torch.randn(batch, layer.cout, *layer.out_side, generator=generator).contiguous(**memory)
        top, bottom, left, right = layer.pads
        padding = (
            [top, left] if (top, left) == (bottom, right) else [max(top, bottom), max(left, right)]
        )  # one-sided pads cost PyTorch a copy
        work.append((layer, w, torch.zeros(layer.cout), x, s, [layer.stride] * 2, padding))


def turn():
    """Run every layer once each way: seconds of [forward], [transpose]."""
    forward, back = [], []
    with torch.inference_mode():
        for layer, w, b, x, _, stride, padding in work:
            start = time.perf_counter()
            nn.functional.conv2d(x, w, b, stride, padding, 1, layer.groups)
            forward.append(time.perf_counter() - start)
        for layer, w, _, x, s, stride, padding in reversed(work):
            start = time.perf_counter()
            torch.ops.aten.convolution_backward(s, x, w, None, stride, padding, [1, 1], False, [0, 0], layer.groups, [True, False, False])
            back.append(time.perf_counter() - start)
    return [forward, back[::-1]]


if __name__ == "__main__":
    serve({"facts": lambda: {"torch": torch.__version__, "numpy": np.__version__}, "prepare": prepare, "turn": turn})
