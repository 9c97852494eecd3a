"""Where Quantus 0.6 is wrong or depends on its batch, worked by hand (docs/evaluate.md).

NPLRP_QUANTUS_PYTHON=/path/to/python pytest -m peers tests/evaluate/test_quantus_cases.py
"""

import json
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nplrp.evaluate import as_quantus, local_lipschitz, pixel_flipping, sparseness, spearman, sufficiency

ROOT = Path(__file__).parent.parent.parent
VARIABLE = "NPLRP_QUANTUS_PYTHON"
SMALL = np.array([[0.0, 0.0, 0.0, 1e-6]])
BOTH = np.concatenate([SMALL, [[0.0, 0.0, 1.0, 1.0]]])
FOUR, CLASSES = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [10.0, 0.0]]), np.array([0, 0, 1, 1])
#: In company of a map of 1: v = (1, 1, 1, 11) 1e-7, so (-3 - 1 + 1 + 33) / (4 * 14).
IN_COMPANY = Fraction(15, 28)


def test_sparseness_depends_on_the_map_alone():
    assert sparseness(BOTH)[0] == sparseness(SMALL)[0] == 3 / 4
    assert as_quantus.sparseness(BOTH)[0] == pytest.approx(float(IN_COMPANY), rel=1e-9)


def test_sufficiency_tells_what_is_known():
    assert np.array_equal(sufficiency(FOUR, CLASSES), [1 / 2, 1 / 2, 0, np.nan], equal_nan=True)
    assert as_quantus.sufficiency(FOUR, CLASSES).tolist() == [0, 0, 0, 0]


def test_a_map_that_does_not_move_has_the_constant_0():
    maps = np.array([[1.0, 0.0], [10.0, 0.0]])
    found = local_lipschitz(lambda x: np.tile(maps, (len(x) // 2, 1)), np.ones((2, 2)), maps, samples=3, radius=0.1, bounds=(0, 1))
    assert found.tolist() == [0, 0]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_area_is_a_mean_height(step):
    x = np.arange(8.0)[None]
    assert pixel_flipping(lambda x: np.full((len(x), 2), 0.25), x, x, np.array([1]), step=step).auc[0] == 0.25


def test_one_constant_map_leaves_the_others_their_correlation():
    three = np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    assert np.allclose(spearman(three, three[:, ::-1]), [np.nan, -1, 1 / 2], equal_nan=True)


@pytest.mark.peers
def test_quantus_still_does(tmp_path):
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no interpreter")
    run = [os.environ[VARIABLE], str(ROOT / "tests" / "peers" / "run_quantus_cases.py"), str(tmp_path / "out.json")]
    subprocess.run(run, check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "out.json").read_text())
    assert [found[f"completeness {name}"] for name in ("default", "as it is", "rounded")] == [False, True, False]
    assert found["sparseness alone"] == pytest.approx(3 / 4, abs=1e-6)
    assert found["sparseness in company"] == pytest.approx(float(IN_COMPANY), rel=1e-9)
    assert found["lipschitz in batches of 1"][0] > 1  # 9/10 over the length of the noise
    assert found["lipschitz in batches of 2"] == [0, 0]
    assert found["sufficiency"] == [0, 0, 0, 0]
    assert (found["auc in steps of 1"], found["auc in steps of 2"]) == (7 / 4, 3 / 4)
    assert found["spearman"] in ("'float' object has no attribute 'shape'", 1)
