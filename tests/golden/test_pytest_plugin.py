"""The plugin, in a pytest of its own."""

import warnings

import numpy as np
import pytest
from PIL import Image

from nplrp import explain, golden
from nplrp.golden.candidate import Candidate
from nplrp.golden.errors import GoldenError, NothingComparedError
from nplrp.testing import VacuousToleranceWarning, assert_lrp_close
from tests.networks import images, small_vgg

pytest_plugins = ["pytester"]

TEST = """
import pytest
from nplrp import explain, golden
from tests.networks import images, small_vgg

def again():
    return golden.record(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus", profile="digest")

def test_right(lrp_check):
    e = explain(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus")
    report = lrp_check("tiny", dict(e.relevances), mode="chained", regenerate=again)
    assert report.passed and len(report.rows) == 9

def test_wrong(lrp_check, lrp_golden):
    R = lrp_golden("tiny")["fc1"].relevance.values
    lrp_check("tiny", {"fc1": R * 1.01}, regenerate=again)

def test_missing(lrp_golden):
    lrp_golden("absent")

def test_no_regenerate(lrp_check):
    lrp_check("tiny", {"fc1": 0})

def test_strict(lrp_check):
    e = explain(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus")
    lrp_check("tiny", {"fc1": e.relevances["fc1"]}, require_all=True)

def test_flag(lrp_check):
    lrp_check("tiny", {"other": 0}, mode="chained")

def test_path(lrp_check):
    import numpy as np
    e = explain(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus")
    np.savez("theirs.npz", **{"last." + k: a for k, a in e.relevances.items()})
    report = lrp_check("tiny", "theirs.npz", names={"last." + k: k for k in e.relevances}, require_all=False)
    assert len(report.rows) == 9
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Golden values, from a file: pytester forgets modules that are imported while it runs, and h5py can't be imported twice."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.lrpgold.h5"
    golden.write(golden.record(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus"), path)
    return golden.read(path)


@pytest.fixture
def theirs(pytester, tiny):
    """Somebody's tests, with golden values beside them."""
    pytester.makepyfile(test_theirs=TEST)
    pytester.mkdir("goldens")
    golden.write(golden_digest(tiny), pytester.path / "goldens" / "tiny.lrpgold.h5")
    return pytester


def golden_digest(recorded):
    from nplrp.golden.recording import digest_of

    return digest_of(recorded)


def run(theirs, *options):
    return theirs.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_right_passes_and_wrong_fails_with_the_report(theirs):
    result = run(theirs, "-k", "right or wrong")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*first diverging layer: predictions (rule epsilon*"])


def test_a_failure_is_drawn_and_its_traceback_is_short(theirs):
    result = run(theirs, "-k", "wrong", "--lrp-pictures", "pictures")
    result.stdout.fnmatch_lines(["*picture: pictures/test_wrong.tiny.png"])
    with Image.open(theirs.path / "pictures" / "test_wrong.tiny.png") as picture:
        assert picture.size[0] > 300
    told = [line for line in result.outlines if line.endswith(".py") or ".py:" in line]
    assert all("test_theirs.py" in line for line in told), told
    result = run(theirs, "-k", "wrong")
    result.stdout.fnmatch_lines(["*picture: */tiny.png"])


def test_names_paths_and_strictness(theirs):
    run(theirs, "-k", "path").assert_outcomes(passed=1)
    result = run(theirs, "-k", "strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*not passed, since these were not compared: *"])


def test_messages_name_arguments_and_no_flags(theirs):
    result = run(theirs, "-k", "flag")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*or give names="])
    assert "--" not in "".join(line for line in result.outlines if "nothing was compared" in line)


def test_missing_golden_is_an_error_and_never_a_skip(theirs):
    result = run(theirs, "-k", "missing")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there is no golden file*absent.lrpgold.h5*nplrp golden record*"])


def test_goldens_may_lie_elsewhere(theirs):
    elsewhere = theirs.path / "elsewhere"
    result = run(theirs, "-k", "right", "--lrp-goldens", str(elsewhere))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{elsewhere / 'tiny.lrpgold.h5'}*"])
    (theirs.path / "goldens").rename(elsewhere)
    run(theirs, "-k", "right", "--lrp-goldens", str(elsewhere)).assert_outcomes(passed=1)


def test_regenerating_never_overwrites_and_never_passes(theirs):
    path = theirs.path / "goldens" / "tiny.lrpgold.h5"
    before, content = path.read_bytes(), golden.read(path).content_sha256
    result = run(theirs, "-k", "right", "--lrp-regen")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tiny.new.lrpgold.h5: the same bits as before; delete it*"])
    other = golden.record(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_alpha2_beta1", profile="digest")
    golden.write(other, path)
    changed = path.read_bytes()
    assert changed != before
    result = run(theirs, "-k", "right", "--lrp-regen")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*arrays differ: *look at it, then rename it*"])
    assert path.read_bytes() == changed
    assert golden.read(path.with_name("tiny.new.lrpgold.h5")).content_sha256 == content  # accepting is renaming
    path.with_name("tiny.new.lrpgold.h5").replace(path)
    run(theirs, "-k", "right").assert_outcomes(passed=1)


def test_regenerating_where_there_is_none_writes_a_new_file(theirs):
    path = theirs.path / "goldens" / "tiny.lrpgold.h5"
    path.unlink()
    result = run(theirs, "-k", "right", "--lrp-regen")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*there were no golden values before*"])
    assert not path.exists() and path.with_name("tiny.new.lrpgold.h5").exists()


def test_regenerating_needs_to_know_how(theirs):
    result = run(theirs, "-k", "no_regenerate", "--lrp-regen")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*give regenerate=*"])


def test_assert_lrp_close_takes_layers_arrays_and_mappings(tiny):
    e = explain(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus")
    layer, R = tiny["fc1"], tiny["fc1"].relevance.values
    assert assert_lrp_close(R.astype("f4"), layer) is None
    assert_lrp_close(e.relevance, tiny, mode="chained")
    assert len(assert_lrp_close({"fc1": R.astype("f4")}, tiny).rows) == 1
    assert len(assert_lrp_close(Candidate(e.relevances), tiny, mode="chained").rows) == 9
    assert_lrp_close(R.astype("f4"), golden_digest(tiny)["fc1"])
    with pytest.raises(AssertionError, match=r"relevance of 'fc1' diverges \(chained\) by .* tolerances .*worst at \(0, "):
        assert_lrp_close(R.astype("f4") * np.float32(1.001), layer)
    with pytest.raises(AssertionError, match="expected"):
        assert_lrp_close(R[:, :3], layer)
    with pytest.raises(AssertionError, match="first diverging layer: predictions"):
        assert_lrp_close({"fc1": (R * 1.001).astype("f4")}, tiny)


def test_a_tolerance_by_hand_tells_what_it_could_hide(tiny):
    layer, R = tiny["fc1"], tiny["fc1"].relevance.values
    hidden = np.minimum(np.abs(R), 0.01 + 0.05 * np.abs(R)).sum() / np.abs(R).sum()
    with pytest.warns(VacuousToleranceWarning, match=rf"could hide {hidden:.2g} of the relevance of 'fc1'.* in 1 of 1 layers"):
        assert_lrp_close(R * 1.04, layer, rtol=0.05, atol=0.01)
    with pytest.warns(VacuousToleranceWarning, match="in 9 of 9 layers"):
        assert_lrp_close({"fc1": R}, tiny, rtol=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_lrp_close(R, layer, rtol=1e-4)
        assert_lrp_close(R, layer)
    with pytest.raises(AssertionError, match="diverges"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_lrp_close(R * 1.001, layer, rtol=1e-4)


def test_strictness_names_and_models(tiny, tmp_path):
    e = explain(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus")
    R = dict(e.relevances)
    with pytest.raises(AssertionError, match="not passed, since these were not compared: "):
        assert_lrp_close({key: each for key, each in R.items() if key != "fc1"}, tiny, require_all=True)
    both = {**{f"relevances/{key}": each for key, each in R.items()}, **{f"activations/{key}": each for key, each in e.activations.items()}}
    assert assert_lrp_close(both, tiny, require_all=True).missing == ()
    with pytest.raises(NothingComparedError, match="names="):
        assert_lrp_close({"other": np.zeros(3)}, tiny)
    with pytest.raises(GoldenError, match=r"give the model \(model="):
        assert_lrp_close(R, tiny, mode="local")
    with pytest.raises(GoldenError, match="no verdict to fail on 'all'; expected diverged, suspect"):
        assert_lrp_close(R, tiny, fail_on="all")
    with pytest.raises(GoldenError, match="no verdict to fail on 'all'; expected diverged, suspect"):
        assert_lrp_close(R["fc1"], tiny["fc1"], fail_on="all")
    np.savez(tmp_path / "theirs.npz", **{f"module.{key}": each for key, each in R.items()})
    (tmp_path / "names.txt").write_text("".join(f"module.{key} {key}\n" for key in R))
    golden.write(tiny, tmp_path / "g.lrpgold.h5")
    report = assert_lrp_close(tmp_path / "theirs.npz", tmp_path / "g.lrpgold.h5", names=tmp_path / "names.txt")
    assert report.mode == "chained" and len(report.rows) == 9
    with pytest.raises(AssertionError, match="diagnosis: "):
        assert_lrp_close({"fc1": R["fc1"] * np.float32(1.01)}, tiny, model=small_vgg(2))


def test_suspects_fail_where_they_are_to():
    layer = golden.record(small_vgg(2, size=32), images(1, 1, (32, 32, 3)), "epsilon_plus")["flatten"]  # sums of 384 terms
    bound = layer.relevance.expected.astype("f8")
    # one element alone, the one with the smallest bound: sums would give more away
    k = np.unravel_index(np.where((bound > 0) & (bound < layer.relevance.certified / 2), bound, np.inf).argmin(), bound.shape)
    got = layer.relevance.values.copy()
    got[k] += 1.5 * bound[k]
    assert assert_lrp_close(got, layer, mode="isolated", precision="float32") is None
    with pytest.raises(AssertionError, match="is suspect"):
        assert_lrp_close(got, layer, mode="isolated", precision="float32", fail_on="suspect")
