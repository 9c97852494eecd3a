"""Between the kernels that an explanation queues, nothing but kernels uses their arrays."""

import pytest

import nplrp
from nplrp.jit import DISABLED, checked_queues
from nplrp.jit.sanitizer import Sanitizer
from nplrp.rules.composites import COMPOSITES
from tests.bits import network, pictures

CASES = [(name, "float32", None) for name in COMPOSITES if "." not in name]
CASES += [("notebook", "float64", None), ("alpha_beta", "float64", None)]
CASES += [(name, "float32", "top-2") for name in ("notebook", "epsilon", "alpha_beta", "gradient")]


@pytest.mark.skipif(DISABLED, reason="plain Python runs at once")
@pytest.mark.parametrize(("composite", "dtype", "target"), CASES)
def test_explanations_keep_the_rule_of_queues(composite, dtype, target, monkeypatch):
    """There is no error, and who reads too early gets a NaN: so the bits would be others."""
    model, x = network(), pictures()
    expected = nplrp.explain(model, x, composite, target, dtype).relevance
    noted, note = [], Sanitizer.note
    monkeypatch.setattr(Sanitizer, "note", lambda self, function, arguments: noted.append(note(self, function, arguments)))
    with checked_queues():
        found = nplrp.explain(model, x, composite, target, dtype).relevance
    assert found.tobytes() == expected.tobytes()
    assert noted
