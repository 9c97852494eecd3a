"""The gradient family, for cross-checks: gradient, input times gradient, guided backpropagation, deconvnet. None of them is a rule of LRP.

All run the layers' transposes from the logits down; they differ in what they do at a ReLU y = max(z, 0) to the gradient g of y:

    gradient, input_t_gradient    g where z > 0                     the derivative; the second one times the input, at the end
    guided_backprop               max(g, 0) where z > 0             Springenberg et al. 2015
    deconvnet                     max(g, 0)                         Zeiler and Fergus 2014

They conserve nothing, so they have no ledger. For networks of ReLUs and max-pools without biases, input times gradient is LRP-0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nplrp import layers
from nplrp.plan import Plan, hands_slope
from nplrp.rules import AS_IS
from nplrp.rules.dialects import OWN
from nplrp.trace import Trace

#: Methods that drop negative gradients at ReLUs.
REVERSED = ("guided_backprop", "deconvnet")


def step_back(plan: Plan, trace: Trace, i: int, g: np.ndarray) -> np.ndarray:
    """Carry a gradient back through one step.

    Parameters
    ----------
    plan : Plan
        Of a composite that names one of `nplrp.rules.composites.GRADIENTS`.
    trace : Trace
    i : int
        The step's place.
    g : ndarray [n, *output_shape]
        Gradient of what follows the step's activation. A softmax's gradient is meant before it, at the logits.

    Returns
    -------
    ndarray [n, *input_shape]
    """
    step, method = plan.steps[i], plan.composite.gradient
    if layers.activation(step.activation).opens:
        g = through_relu(method, trace.activations[i + 1], g)
    elif layers.activation(step.activation).bends and not step.score:
        z, _ = layers.apply(step, layers.gather(step, trace.activations), None)
        g = _through(step.activation, plan, g, lambda: layers.slope(step.activation, z))
    if layers.only_moves(step):
        return layers.move_back(step, g)
    held, op = trace.held.get(i), layers.operation(step)
    own = getattr(plan.dialect, op.family) if op.family in OWN else None
    shares = own is not None and own.row.decision == "shared"
    if op.redecide and (held is None or op.curved or shares):
        held = op.redecide(step, layers.gather(step, trace.activations), None, "shared" if shares else "slope")
    if "function" in step.options:
        return _through(step.options["function"], plan, g, lambda: np.asarray(held))
    return layers.transpose(step, g, [AS_IS], held)[0]


def _through(function: str, plan: Plan, g: np.ndarray, slope: Callable[[], np.ndarray]) -> np.ndarray:
    """Carry a gradient back through an activation that isn't a plain ReLU; a ReLU with a ceiling counts as one in some systems."""
    found = layers.activation(function)
    if plan.dialect.clipped and found.name == "relu" and found.positive:
        g = np.maximum(g, g.dtype.type(0)) if plan.composite.gradient in REVERSED else g
        return g if plan.composite.gradient == "deconvnet" else times(g, slope())
    return times(g, slope())


def behind_activation(plan: Plan, trace: Trace, i: int, R: np.ndarray) -> np.ndarray:
    """Carry relevance back through step i's activation: as it is, or times the slope (`Composite.slopes`)."""
    step = plan.steps[i]
    if not hands_slope(step, plan.composite.slopes):
        return R
    if layers.activation(step.activation).opens:
        y = trace.activations[i + 1]
        return np.where(y > 0, layers.by_target(R, y), R.dtype.type(0)).reshape(R.shape)
    z, _ = layers.apply(step, layers.gather(step, trace.activations))
    return times(R, layers.slope(step.activation, z))


def through_relu(method: str, y: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Return what a method makes of the gradient g of a ReLU's output y."""
    zero = g.dtype.type(0)
    if method in REVERSED:
        g = np.maximum(g, zero)
    return g if method == "deconvnet" else np.where(y > 0, layers.by_target(g, y), zero).reshape(g.shape)


def times(g: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply gradients, or relevance, of one target or several with what their images have."""
    product: np.ndarray = (layers.by_target(g, factors) * factors).reshape(g.shape)
    return product
