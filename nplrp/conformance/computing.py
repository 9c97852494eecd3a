"""A case run by nplrp: under any rule, in either precision, with error bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nplrp import layers
from nplrp.conformance.cases import build_around, input_names, step_of
from nplrp.errors import RuleError
from nplrp.golden import edges
from nplrp.golden.bounds import relevance_bounds
from nplrp.golden.faults import Place
from nplrp.layers import Layer
from nplrp.model import Model
from nplrp.plan import make_plan
from nplrp.rules import Rule
from nplrp.rules.composites import PASSED, WEIGHTED, Composite, Select
from nplrp.rules.dialects import OWN, Dialect, dialect_named
from nplrp.trace import Trace


class Bench:
    """One layer on a workbench: its inputs and the relevance of its output are given, whatever network it may stand in.

    Parameters
    ----------
    layer : Layer
        Called "layer", with its shapes.
    inputs : sequence of ndarray [n, *input_shape]
    R : ndarray [n, *output_shape]
    exact : bool
        As of a `nplrp.conformance.suite.Case`.
    """

    def __init__(self, layer: Layer, inputs: Sequence[np.ndarray], R: np.ndarray, exact: bool) -> None:
        self.model: Model = build_around(layer, tuple(a.shape[1:] for a in inputs))
        self.inputs, self.R, self.exact = tuple(inputs), R, exact
        self.i = [each.name for each in self.model].index("layer")

    @property
    def family(self) -> str:
        """What dialects and rules know the layer as."""
        return layers.operation(step_of(self.model)[1]).family

    def place(self, rule: Rule | None, dialect: str | Dialect, dtype: str = "float64", algorithm: str = "direct") -> Place:
        """Return the layer's backward step; a rule of None is the dialect's own.

        Raises
        ------
        RuleError
            If the rule doesn't fit the layer.
        """
        # the layer above hands down relevance that the layer's output isn't a factor of
        rows = ([(Select((), ("layer",)), rule)] if rule is not None else []) + [(WEIGHTED, Rule("flat")), (OWN, None)]
        composite = Composite("conformance", tuple(rows), batch_norm=rule)
        plan = make_plan(self.model, composite, dtype, algorithm, dialect, merge=False)
        step, n = plan.steps[self.i], len(self.R)
        x = self.inputs[0] if len(self.inputs) == 1 else np.zeros((n, *self.model.input_shape))
        values = dict(zip(input_names(len(self.inputs)), self.inputs, strict=True))
        activations = [np.ascontiguousarray(x, plan.dtype)]
        for each in plan.steps:
            given = values.get(each.name)
            activations.append(np.ascontiguousarray(np.zeros((n, *each.output_shape)) if given is None else given, plan.dtype))
        z, held = layers.apply(step, layers.gather(step, activations))
        activations[self.i + 1] = layers.activate(step, z, in_place=False)
        trace = Trace(tuple(activations), {} if held is None else {self.i: held}, activations[-1], {})
        return Place(plan, trace, self.i, np.ascontiguousarray(self.R, plan.dtype))

    @staticmethod
    def asks_for_own(rule_name: str) -> bool:
        """Tell whether a case asks for what a dialect does by itself."""
        return rule_name == "own"

    def run(self, at: Place) -> tuple[np.ndarray, ...]:
        """Return relevance of each input."""
        return tuple(np.ascontiguousarray(each) for each in layers.scatter(at.step, at.run()))

    def bounds(self, at: Place) -> tuple[edges.Share, ...]:
        """Return relevance of each input with its error bounds for float32; `at` is in float64."""
        R = at.run()
        exact_inputs = np.zeros(at.a.shape)
        found = relevance_bounds(at.plan, self.i, at.trace, at.R, exact_inputs, exact_sums=self.exact)
        shares = edges.cut_bounds(at.step, R, found)
        return tuple(shares[j] for j in at.step.inputs)


def resolved(rule: Rule | None, dialect: str | Dialect, family: str) -> Rule | None:
    """Return a rule as a dialect has it; None if that system has no such rule, or the rule doesn't fit the family."""
    dialect = dialect_named(dialect)
    if rule is None:
        if family in OWN:
            return dialect.resolve(None, family)
        if family == "scale":
            return None if dialect.batch_norm is None else dialect.resolve(dialect.batch_norm, family)
        return Rule("pass") if family in PASSED else None
    if family not in rule.fits or not (dialect.knows(rule) or dialect.name == "nplrp"):
        return None
    try:
        return dialect.resolve(rule, family)
    except RuleError:
        return None
