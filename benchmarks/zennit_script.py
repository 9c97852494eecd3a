"""What a user of Zennit runs for one picture: import, load, explain, save. Runs in the peers' interpreter, as a process of its own.

usage: zennit_script.py NETWORK save STATE | usual STATE PICTURE OUT.png | mapped STATE PICTURE OUT.png

`usual` builds the network and loads a state dict of the same 553 MB into it; `mapped` saves what can be saved: it builds the network
without storage and maps the file. Neither imports more than it needs.
"""

import sys

import numpy as np
import torch
import zennit_import
from PIL import Image
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import LayerMapComposite
from zennit.image import imsave
from zennit.rules import Epsilon, Pass
from zennit.types import Activation, Linear

MEAN = (123.68, 116.779, 103.939)


def vgg16():
    """Return VGG16 with PyTorch's own initial weights."""
    modules, before = [], 3
    for depth, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(depth):
            modules += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        modules.append(nn.MaxPool2d(2))
    dense = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(nn.Sequential(*modules), nn.Flatten(), nn.Sequential(*dense))


def main(network, mode, state, picture=None, out=None):
    """Explain a picture with epsilon on every layer, for the largest logit."""
    if mode == "save":
        from protocol import read_network
        from torch_vgg import build

        chain = build(read_network(network))
        torch.save(nn.Sequential(chain.features, nn.Flatten(), chain.classifier).state_dict(), state)
        return
    if mode == "usual":
        model = vgg16()
        model.load_state_dict(torch.load(state, weights_only=True))
    else:
        with torch.device("meta"):
            model = vgg16()
        model.load_state_dict(torch.load(state, weights_only=True, mmap=True), assign=True)
    model.eval().requires_grad_(False)
    pixels = np.asarray(Image.open(picture).convert("RGB").resize((224, 224), Image.Resampling.NEAREST), np.float32) - np.float32(MEAN)
    x = torch.from_numpy(np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1)[None]))
    composite = LayerMapComposite([(Linear, Epsilon()), (Activation, Pass())])
    with Gradient(model=model, composite=composite) as attributor:
        output, relevance = attributor(x, lambda logits: logits * (logits == logits.max(1, keepdim=True).values))
    imsave(out, relevance.sum(1)[0].numpy(), symmetric=True, cmap="bwr")
    print(output.topk(5).indices.tolist())


if __name__ == "__main__":
    assert zennit_import
    main(*sys.argv[1:])
