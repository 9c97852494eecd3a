"""All metrics of Quantus 0.6 on a model of ours (docs/evaluate.md): which run, and which can't.

NPLRP_QUANTUS_PYTHON=/path/to/python pytest -m peers tests/evaluate/test_quantus_adapter.py
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
VARIABLE = "NPLRP_QUANTUS_PYTHON"
#: It calls quantus.explain whatever explain_func it is given, which needs Captum or Zennit.
CANNOT = {"SmoothMPRT": "Explanation library not found"}
METRICS = 37


@pytest.mark.peers
def test_all_metrics(tmp_path):
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no interpreter")
    run = [os.environ[VARIABLE], str(ROOT / "tests" / "peers" / "run_quantus_metrics.py"), str(tmp_path / "out.json")]
    subprocess.run(run, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found) == METRICS
    failed = {name: error for name, (error, _) in found.items() if error}
    assert set(failed) == set(CANNOT), failed
    assert all(message in failed[name] for name, message in CANNOT.items())
    assert all(count for name, (_, count) in found.items() if name not in CANNOT)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is here")
def test_without_torch_the_adapter_says_what_it_needs():
    script = "import nplrp.evaluate\ntry:\n    import nplrp.evaluate.quantus_adapter\nexcept nplrp.NplrpError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "the adapter for Quantus needs torch, which isn't installed: pip install 'nplrp[quantus]'"
