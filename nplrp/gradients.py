"""The gradient family, for cross-checks: gradient, input times gradient, guided backpropagation, deconvnet. None of them is a rule of LRP.

All run the layers' transposes from the logits down; they differ in what they do at a ReLU y = max(z, 0) to the gradient g of y:

    gradient, input_t_gradient    g where z > 0                     the derivative; the second one times the input, at the end
    guided_backprop               max(g, 0) where z > 0             Springenberg et al. 2015
    deconvnet                     max(g, 0)                         Zeiler and Fergus 2014

They conserve nothing, so they have no ledger. For networks of ReLUs and max-pools without biases, input times gradient is LRP-0.
"""

from __future__ import annotations

import numpy as np

from nplrp import layers
from nplrp.layers import Step
from nplrp.rules import AS_IS
from nplrp.trace import Trace


def step_back(step: Step, method: str, trace: Trace, i: int, g: np.ndarray) -> np.ndarray:
    """Carry a gradient back through one step.

    Parameters
    ----------
    step : Step
    method : str
        One of `nplrp.rules.composites.GRADIENTS`.
    trace : Trace
    i : int
        The step's place.
    g : ndarray [n, *output_shape]
        Gradient of what follows the step's activation. A softmax's gradient is meant before it, at the logits.

    Returns
    -------
    ndarray [n, *input_shape]
    """
    if layers.activation(step.activation).opens:
        g = through_relu(method, trace.activations[i + 1], g)
    elif layers.activation(step.activation).bends and not step.score:
        z, _ = layers.apply(step, layers.gather(step, trace.activations), None)
        g = g * layers.slope(step.activation, z)
    if layers.only_moves(step):
        return layers.move_back(step, g)
    held, op = trace.held.get(i), layers.operation(step)
    if held is None and op.redecide:
        held = op.redecide(step, layers.gather(step, trace.activations), None, "slope")
    return layers.transpose(step, g, [AS_IS], held)[0]


def through_relu(method: str, y: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return what a method makes of the gradient g of a ReLU's output y."""
    zero = g.dtype.type(0)
    if method in ("guided_backprop", "deconvnet"):
        g = np.maximum(g, zero)
    return g if method == "deconvnet" else np.where(y > 0, g, zero)
