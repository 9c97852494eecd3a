"""A state dict of torchvision's VGG11, 13, 16 or 19, with or without batch norm -> Model under Keras's layer names.

torchvision's models end in logits; a softmax is added, as in Keras. Its images are resized (shorter side 256) and cut (224), then
normalised per channel: recorded as the model's preprocessing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nplrp.errors import ModelError, WeightsError
from nplrp.files.weights import imagenet_classes
from nplrp.model import Layer, Model, Preprocessing, Window, chain
from weights_tools.torch_file import read_tensors

#: Convolutions in each block: Simonyan and Zisserman 2014, table 1, columns A, B, D, E.
BLOCKS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
#: torchvision's places of the dense layers -> Keras's names.
HEAD = {"classifier.0": "fc1", "classifier.3": "fc2", "classifier.6": "predictions"}
#: torch.nn.BatchNorm2d's default; a state dict doesn't hold it.
BATCHNORM_EPSILON = 1e-5


def from_pytorch(path: str | os.PathLike[str]) -> Model:
    """Read a state dict: what `torch.save` writes (``.pth``, ``.pt``; no PyTorch needed) or ``.safetensors``.

    Raises
    ------
    WeightsError
        If it can't be read, or isn't that of one of torchvision's VGGs.
    """
    path = Path(path)
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)
    try:
        return vgg({name.removeprefix("module."): array for name, array in tensors.items()})
    except (WeightsError, ModelError) as error:
        raise WeightsError(f"{path}: {error}") from None


def vgg(tensors: Mapping[str, np.ndarray]) -> Model:
    """Lay out a VGG over torchvision's state dict; widths and the input's side come from the shapes.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        ``features.<i>.weight`` [cout, cin, 3, 3], ``classifier.<i>.weight`` [out, in], the first with its rows in the order (C, H, W).

    Raises
    ------
    WeightsError
        If names or shapes are those of another network.
    """
    left = {name: array for name, array in tensors.items() if not name.endswith(".num_batches_tracked")}
    name, with_norm = _recognise(left)
    layers: list[Layer] = []
    place = 0
    for block, count in enumerate(BLOCKS[name], 1):
        for i in range(1, count + 1):
            conv = f"block{block}_conv{i}"
            kernel, bias = _take(left, f"features.{place}.weight", 4), _take(left, f"features.{place}.bias", 1)
            arrays = {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), "bias": bias}  # OIHW -> HWIO
            window = Window((kernel.shape[2], kernel.shape[3]), padding="same")
            layers.append(Layer(conv, "conv", (), (), "linear" if with_norm else "relu", window, arrays=arrays))
            if with_norm:
                keys = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
                arrays = {ours: _take(left, f"features.{place + 1}.{theirs}", 1) for ours, theirs in keys.items()}
                layers.append(Layer(f"block{block}_bn{i}", "batchnorm", (), (), epsilon=BATCHNORM_EPSILON, arrays=arrays))
                layers.append(Layer(f"block{block}_relu{i}", "activation", (), (), "relu"))
            place += 3 if with_norm else 2
        layers.append(Layer(f"block{block}_pool", "maxpool", (), (), window=Window((2, 2), (2, 2))))
        place += 1
    channels = kernel.shape[0]
    layers.append(Layer("flatten", "flatten", (), ()))
    side = 0
    for theirs, ours in HEAD.items():
        weight, bias = _take(left, f"{theirs}.weight", 2), _take(left, f"{theirs}.bias", 1)
        if ours == "fc1":
            side = round((weight.shape[1] / channels) ** 0.5)
            if side * side * channels != weight.shape[1]:
                raise WeightsError(f"{theirs}.weight has {weight.shape[1]} columns, expected {channels} channels x a square")
            weight = weight.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(weight.shape)  # rows CHW -> HWC
        activation = "softmax" if ours == "predictions" else "relu"
        layers.append(Layer(ours, "dense", (), (), activation, arrays={"kernel": np.ascontiguousarray(weight.T), "bias": bias}))
    if left:
        raise WeightsError(
            f"{name}{'_bn' if with_norm else ''} has no {', '.join(sorted(left)[:3])}; only torchvision's VGGs are supported"
        )
    size = 32 * side
    # torchvision: shorter side to 256, then the centre 224 x 224; other sizes in proportion.
    how = Preprocessing("torch", "bilinear", crop=True, resize_to=size * 8 // 7)
    classes = imagenet_classes() if bias.shape == (1000,) else None
    model = f"{name}_bn" if with_norm else name
    return chain((size, size, layers[0].arrays["kernel"].shape[2]), layers, model, preprocessing=how, classes=classes)


def _recognise(tensors: Mapping[str, np.ndarray]) -> tuple[str, bool]:
    """Tell which VGG it is, and whether with batch norms, by the places of its convolutions."""
    convs = {name for name, array in tensors.items() if name.startswith("features.") and name.endswith(".weight") and array.ndim == 4}
    for with_norm in (False, True):
        for name, blocks in BLOCKS.items():
            place, expected = 0, set()
            for count in blocks:
                for _ in range(count):
                    expected.add(f"features.{place}.weight")
                    place += 3 if with_norm else 2
                place += 1
            if convs == expected:
                return name, with_norm
    raise WeightsError(
        f"the state dict has {len(tensors)} tensors ({', '.join(sorted(tensors)[:3])}, ...), which aren't those of torchvision's "
        f"{', '.join(BLOCKS)} or "
        "their _bn variants; export other networks to ONNX and use from-onnx"
    )


def _take(tensors: dict[str, np.ndarray], name: str, dims: int) -> np.ndarray:
    """Take a tensor out, as float32; half precision is widened, which loses nothing."""
    if name not in tensors:
        raise WeightsError(f"the state dict has no {name!r}; only torchvision's VGGs are supported")
    array = tensors.pop(name)
    if array.ndim != dims or array.dtype not in (np.float32, np.float16):
        raise WeightsError(f"{name!r} has shape {array.shape} and type {array.dtype}, expected {dims} axes of float32 or float16")
    return np.ascontiguousarray(array, np.float32)


def _read_safetensors(path: Path) -> Mapping[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise WeightsError("reading safetensors needs the package safetensors: pip install 'nplrp[tools]'") from None
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file, expected safetensors")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:  # KeyError: a type that NumPy doesn't have
        raise WeightsError(f"{path}: can't be read as safetensors: {error}; save it again, in float32") from error
