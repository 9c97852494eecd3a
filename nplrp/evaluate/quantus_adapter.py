"""For Quantus 0.6: the engine's models and maps in a form that all of its metrics take, without changing it (docs/evaluate.md).

    from nplrp.evaluate.quantus_adapter import QuantusModel, channels_first, explain_func

    model = QuantusModel(nplrp.load("vgg16.h5"))
    quantus.MPRT()(model, channels_first(x), targets, explain_func=explain_func, explain_func_kwargs={"composite": "zplus"})

Quantus wraps what is a `torch.nn.Module` and refuses what isn't, so a model comes as one: a module for each layer, whose parameters hold
the weights in Keras's own layout, while the engine computes. Needs torch (extra ``quantus``); nothing else in nplrp imports this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from nplrp.errors import brief
from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.randomising import layers_with_weights, random_layer
from nplrp.explanation import explain
from nplrp.model import Layer, Model, build
from nplrp.outputs import forward, logits
from nplrp.scores import scoring_of

try:
    import torch
except ModuleNotFoundError as error:
    raise EvaluationError(f"the adapter for Quantus needs {error.name}, which isn't installed: pip install 'nplrp[quantus]'") from error


class QuantusModel(torch.nn.Module):
    """A model of nplrp's as a module of PyTorch's: [n, c, h, w] (or [n, features], [n, c, steps]) -> logits [n, classes].

    There is no softmax in it: Quantus adds one where a metric asks for probabilities. Of one sigmoid unit it gives two logits, -z/2 and
    z/2, whose softmax are the two probabilities.

    Parameters
    ----------
    model : Model
    dtype, algorithm
        As for `nplrp.explain`.
    """

    def __init__(self, model: Model, dtype: str = "float32", algorithm: str = "auto") -> None:
        super().__init__()
        self.base, self.dtype, self.algorithm = model, dtype, algorithm
        self._places: dict[str, str] = {}
        weighted = set(layers_with_weights(model))
        first: set[str] = set()
        # Quantus takes the first module for the layer that reads the input.
        for layer in sorted(model.layers, key=lambda each: each.name not in weighted):
            name = layer.name.replace(".", "_")
            while name in first or hasattr(self, name):
                name += "_"
            first.add(name)
            self._places[layer.name] = name
            self.add_module(name, WeightedLayer(layer) if layer.name in weighted else PlainLayer(layer))
        self.eval()

    @property
    def engine(self) -> Model:
        """The model with the weights that the parameters hold now."""
        held = [self._modules[self._places[layer.name]] for layer in self.base.layers]
        now = tuple((tensor.data_ptr(), tensor._version) for module in held for tensor in module.held().values())
        known = self.__dict__.get("_known")
        if known is None or known[0] != now:
            layers = tuple(module.layer_now() for module in held)
            known = self.__dict__["_known"] = (now, dataclasses.replace(self.base, layers=layers, source=None))
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_known"}

    def forward(self, x: Any) -> Any:
        """Return logits; modules that somebody listens to are called with what their layers compute."""
        array, model = channels_last(np.asarray(x.detach().cpu())), self.engine
        if any(module._forward_hooks for module in self.children()):
            activations = forward(model, array, self.dtype, self.algorithm)
            for layer in model.layers:
                module = self._modules[self._places[layer.name]]
                if module is not None and module._forward_hooks:
                    module(x, torch.from_numpy(channels_first(activations[layer.name])))
        found, scoring = logits(model, array, self.dtype, self.algorithm), scoring_of(model)
        flat = scoring.logits(found) / 2 if scoring.binary else found.reshape(len(found), -1)
        return torch.from_numpy(np.ascontiguousarray(flat))


class PlainLayer(torch.nn.Module):
    """A layer without weights."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = dataclasses.replace(layer, arrays={})
        for key, array in layer.arrays.items():
            self._hold(key, torch.from_numpy(np.array(array)))

    def _hold(self, key: str, tensor: Any) -> None:
        self.register_buffer(key, tensor)

    def held(self) -> dict[str, Any]:
        """Return the layer's arrays as tensors."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def layer_now(self) -> Layer:
        """Return the layer, its arrays sharing the tensors' memory."""
        return dataclasses.replace(self.layer, arrays={key: tensor.detach().numpy() for key, tensor in self.held().items()})

    def forward(self, x: Any, known: Any = None) -> Any:
        """Return what the layer computes of x before its activation; or what is known already."""
        if known is not None:
            return known
        array = channels_last(np.asarray(x.detach().cpu()))
        layer = dataclasses.replace(self.layer_now(), activation="linear", inputs=())
        single = build(array.shape[1:], [layer], self.layer.name)
        return torch.from_numpy(channels_first(forward(single, array)[self.layer.name]))


class WeightedLayer(PlainLayer):
    """A layer with weights, which can be drawn anew."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.out_channels = layer.output_shape[-1]

    def _hold(self, key: str, tensor: Any) -> None:
        if key in ("mean", "variance"):
            super()._hold(key, tensor)
        else:
            self.register_parameter(key, torch.nn.Parameter(tensor, requires_grad=False))

    def reset_parameters(self) -> None:
        """Draw weights as `nplrp.evaluate.randomise` does, with torch's seed."""
        drawn = random_layer(self.layer_now(), torch.initial_seed())
        with torch.no_grad():
            for key, tensor in self.held().items():
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(drawn.arrays[key])))


def explain_func(model: Any, inputs: np.ndarray, targets: Any, **options: Any) -> np.ndarray:
    """Explain inputs, as Quantus asks for it.

    Parameters
    ----------
    model : QuantusModel
        Or one that Quantus has made of it: a copy, perhaps with other weights.
    inputs : ndarray [n, c, h, w]
    targets : ndarray [n] of int
    **options
        ``explain_func_kwargs``: ``composite`` and whatever else `nplrp.explain` takes; ``features="pixels"`` gives one number a pixel, the
        sum over its channels. What Quantus adds itself is ignored (``device``).

    Returns
    -------
    ndarray [n, c, h, w], or [n, 1, h, w] for pixels

    Raises
    ------
    EvaluationError
        If the model is none of nplrp's.
    """
    found = next(_ours(model), None)
    if found is None:
        raise EvaluationError(f"explain_func got a {type(model).__name__}; give Quantus the model as a QuantusModel: {brief(model)}")
    options = {key: value for key, value in options.items() if key != "device"}
    features = options.pop("features", "values")
    options = {"dtype": found.dtype, "algorithm": found.algorithm} | options
    x = channels_last(np.asarray(inputs, options["dtype"]))
    chosen = None if targets is None else [int(each) for each in np.ravel(np.asarray(targets))]
    relevance = channels_first(explain(found.engine, x, target=chosen, **options).relevance)
    return relevance.sum(axis=1, keepdims=True) if features == "pixels" and relevance.ndim > 2 else relevance


def replace_by_mask(arr: np.ndarray, mask: np.ndarray, perturb_baseline: float = 0.0, **_: Any) -> np.ndarray:
    """Replace what lies in a mask [n, 1, h, w] in all channels: IROF's own function takes masks of all channels, and IROF gives it none.

    For ``quantus.IROF(perturb_func=replace_by_mask, perturb_func_kwargs={"perturb_baseline": 0.0})``.
    """
    if not isinstance(perturb_baseline, (int, float)):
        perturb_baseline = float(arr.mean())
    return np.where(mask, np.asarray(perturb_baseline, arr.dtype), arr)


def impute_pixels(arr: np.ndarray, indices: np.ndarray, **options: Any) -> np.ndarray:
    """Impute pixels in all channels: ROAD's own function takes places of pixels, and ROAD gives it places of values.

    For ``quantus.ROAD(perturb_func=impute_pixels)``, whose imputation it calls: arr [c, h, w].
    """
    from quantus.functions.perturb_func import noisy_linear_imputation

    pixels = list(dict.fromkeys((np.asarray(indices) % arr[0].size).tolist()))
    return noisy_linear_imputation(arr=arr, indices=np.array(pixels), **options)


def _ours(model: Any) -> Iterator[QuantusModel]:
    """Yield the models of ours in a module: Quantus puts a softmax behind one."""
    if isinstance(model, torch.nn.Module):
        yield from (each for each in model.modules() if isinstance(each, QuantusModel))


def channels_first(x: np.ndarray) -> np.ndarray:
    """Return [n, h, w, c] as [n, c, h, w]; vectors as they are."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else np.ascontiguousarray(x)


def channels_last(x: np.ndarray) -> np.ndarray:
    """Return [n, c, h, w] as [n, h, w, c]; vectors as they are."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim > 2 else np.ascontiguousarray(x)
