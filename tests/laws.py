"""Laws that several tests hold explanations to."""

import numpy as np


def assert_balanced(explanation, units=1e-12):
    """The ledger has an entry for every step of the pass, each of numbers, and explains all but rounding."""
    span, steps = explanation.span, explanation.plan.steps
    ledger = explanation.ledger
    assert [entry.layer for entry in ledger.entries] == [steps[i].name for i in range(span.top, span.bottom, -1)]
    assert len(ledger) > 0
    for entry in ledger.entries:
        assert entry.residual.shape == (len(explanation.relevance),)
        assert np.all(entry.size_in >= np.abs(entry.relevance_in) * (1 - 1e-12)), entry.layer
        assert np.all(np.abs(entry.residual) <= units * entry.magnitude), (entry.layer, entry.rule)
    assert max(entry.magnitude.max() for entry in ledger.entries) > 0
