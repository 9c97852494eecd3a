"""Write tests/data/torch_files/torchvision.json.xz: names and shapes of torchvision's networks, an eighth as wide, and what they compute.

Needs torch and torchvision, which the project doesn't; run by hand, from the root, for new networks:
`PYTHONPATH=. python tests/peers/record_torchvision.py`. Weights and image are those of tests/torch_files.py, outputs float64.
"""

import json
import lzma

import allow_torchvision  # noqa: F401
import torch
from torchvision import models

from tests.torch_files import DATA, image, values

CLASSES = 5
#: Where an image of 64 x 72 is too small.
SIDES = {"inception_v3": 96, "alexnet": 224}
NAMES = (
    *(f"vgg{depth}{norm}" for norm in ("", "_bn") for depth in (11, 13, 16, 19)),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "squeezenet1_0", "squeezenet1_1"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "googlenet", "inception_v3", "alexnet"),
    *(f"efficientnet_b{number}" for number in range(8)),
)
#: Not computed: data/torch_files has smaller ones.
FLAT = "vgg"


def narrow(width):
    return width if width == 3 else -(-width // 8)


def shrink(model):
    """Give every layer an eighth of its channels."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.groups = narrow(module.groups) if module.groups > 1 else 1
            module.in_channels, module.out_channels = narrow(module.in_channels), narrow(module.out_channels)
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            module.weight = torch.nn.Parameter(torch.zeros(shape))
            module.bias = module.bias if module.bias is None else torch.nn.Parameter(torch.zeros(module.out_channels))
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.num_features = narrow(module.num_features)
            for key in ("weight", "bias"):
                setattr(module, key, torch.nn.Parameter(torch.zeros(module.num_features)))
            module.running_mean, module.running_var = torch.zeros(module.num_features), torch.zeros(module.num_features)
        elif isinstance(module, torch.nn.Linear):
            module.in_features, module.out_features = narrow(module.in_features), narrow(module.out_features)
            module.weight = torch.nn.Parameter(torch.zeros(module.out_features, module.in_features))
            module.bias = torch.nn.Parameter(torch.zeros(module.out_features))


def main():
    found = {}
    for name in NAMES:
        more = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = getattr(models, name)(weights=None, num_classes=CLASSES * 8, **more).eval()
        shrink(model)
        state = {key: torch.from_numpy(values(key, tuple(tensor.shape))) for key, tensor in model.state_dict().items()}
        model.load_state_dict(state)
        side = SIDES.get(name, 64)
        record = {"side": side, "tensors": [[key, list(tensor.shape)] for key, tensor in state.items()]}
        if not name.startswith(FLAT):
            x = torch.from_numpy(image(side, name).transpose(0, 3, 1, 2).copy()).double()
            record["logits"] = model.double()(x).detach().numpy()[0].tolist()
        found[name] = record
        print(name, record.get("logits"))
    (DATA / "torchvision.json.xz").write_bytes(lzma.compress(json.dumps(found, separators=(",", ":")).encode(), preset=9))


if __name__ == "__main__":
    main()
