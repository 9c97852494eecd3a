"""The example backends in C and in JavaScript: what they answer passes, and a fault in them is seen."""

import shutil
import subprocess
from pathlib import Path

import pytest

from nplrp.conformance import Refused, answers_of, judged, load

FOLDER = Path(__file__).parents[2] / "examples" / "conformance"
needs_cc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")


@pytest.fixture(scope="module")
def part():
    return load().only(["*.dense.*", "*.conv-*.mixed", "*.conv-same-stride2.z-zero", "own.*", "*.add.*", "*.depthwise.*", "*pool-2x2.*"])


def compiled(folder, edit=lambda text: text):
    source = folder / "lrp.c"
    source.write_text(edit((FOLDER / "lrp.c").read_text()))
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"]
    subprocess.run(["gcc", *flags, "-o", folder / "lrp", source, "-lm"], check=True)
    return f"exec:{folder / 'lrp'}"


@needs_cc
def test_c(part, tmp_path):
    outcome = judged(part, answers_of(compiled(tmp_path), part, "nplrp"), "nplrp")
    assert outcome.exit_code == 0 and outcome.counts["pass"] > 250 and set(outcome.counts) == {"pass", "refused"}, str(outcome)


@needs_cc
@pytest.mark.parametrize("dialect", ["zennit-0.5", "captum-0.9", "innvestigate-2.1"])
def test_c_speaks_dialects(part, tmp_path, dialect):
    """It does what the rule's switches say: bias raw, epsilon for zeros alone, weights told by sign."""
    outcome = judged(part, answers_of(compiled(tmp_path), part, dialect), dialect)
    assert outcome.exit_code == 0 and outcome.counts["pass"] > 100, str(outcome)


@needs_cc
@pytest.mark.parametrize(
    ("right", "wrong", "caught"),
    [
        ("d = z < 0 ? z - e : z + e", "d = z + e", "epsilon_0.1."),
        ("case LOSSES: return neg(b);", "case LOSSES: return b;", "alpha2_beta1."),
        ("x * stride[1]", "x * stride[0]", "conv-pads"),
        ("true_z += bias;", "", "gamma."),
    ],
)
def test_fault_in_c_is_seen(part, tmp_path, right, wrong, caught):
    def edit(text):
        assert right in text
        return text.replace(right, wrong)

    part = part.only([f"*{caught}*dense*"] if caught.endswith(".") else [f"*{caught}*"])
    outcome = judged(part, answers_of(compiled(tmp_path, edit), part, "nplrp"), "nplrp")
    assert any(caught in result.case for result in outcome.results if result.outcome == "FAIL"), str(outcome)


@needs_node
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_javascript(part, precision):
    said = answers_of(f"exec:node {FOLDER / 'lrp.mjs'}", part, "nplrp", precision)
    outcome = judged(part, said, "nplrp", precision)
    assert outcome.exit_code == 0 and outcome.counts["pass"] > 300 and set(outcome.counts) == {"pass", "refused"}, str(outcome)
    assert "no rule gradient" in {str(each) for each in said.values() if isinstance(each, Refused)}
