"""Answers judged, exported and read back; expected failures, reports, exit codes, the command line."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from nplrp.cli import main
from nplrp.conformance import Refused, answers_of, export, judged, load, read_answers, read_xfails
from nplrp.errors import NplrpError
from nplrp.golden.errors import GoldenError

DIALECTS = ("nplrp", "zennit-0.5", "innvestigate-2.1", "captum-0.9")


@pytest.fixture(scope="module")
def few():
    return load().only(["*.dense.z-zero", "own.add.*", "own.flatten.*", "gamma*.conv-pads.*", "own.maxpool-2x2.*"])


def right(suite, dialect="nplrp"):
    """The answers themselves, in float32."""
    found = {}
    for case in suite.only((), dialect):
        found[case.name] = tuple(tensor.values.astype(np.float32) for tensor in case.answer(dialect).tensors)
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_nplrp_passes_in_every_dialect(few, dialect, precision):
    outcome = judged(few, answers_of("nplrp", few, dialect, precision), dialect, precision, backend="nplrp")
    assert set(outcome.counts) == {"pass"} and outcome.exit_code == 0, str(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_nplrp_passes_all_of_it(dialect, precision):
    suite = load()
    outcome = judged(suite, answers_of("nplrp", suite, dialect, precision), dialect, precision, backend="nplrp")
    assert set(outcome.counts) == {"pass"} and max(result.ratio for result in outcome.results) < 0.5


def test_outcomes(few):
    said = right(few)
    names = list(said)
    wrong, gone, no, nan, expected = names[:5]
    said[wrong] = tuple(each * np.float32(1.00001) for each in said[wrong])
    said[gone], said[no] = None, Refused("no such rule")
    said[nan] = tuple(np.full_like(each, np.nan) for each in said[nan])
    said[expected] = tuple(each * 2 for each in said[expected])
    outcome = judged(few, said, "nplrp", xfails=(expected, names[5], "no.such.*"))
    found = {result.case: result.outcome for result in outcome.results}
    assert [found[name] for name in names[:6]] == ["FAIL", "missing", "refused", "FAIL", "xfail", "XPASS"]
    assert set(map(found.get, names[6:])) == {"pass"}
    assert outcome.unused == ("no.such.*",) and outcome.exit_code == 1
    text = str(outcome)
    assert "times the tolerance at (" in text and "NaN" in text and "XPASS" in text and "1 x no such rule" in text and "no.such.*" in text


def test_exit_codes(few):
    assert judged(few, {}, "nplrp").exit_code == 4
    assert judged(few, dict.fromkeys([case.name for case in few], Refused("no")), "nplrp").exit_code == 4
    said = right(few)
    assert judged(few, said, "nplrp").exit_code == 0
    said.popitem()
    assert judged(few, said, "nplrp").exit_code == 0
    assert judged(few, said, "nplrp", all_required=True).exit_code == 1
    wrong = {name: tuple(each + 1 for each in arrays) for name, arrays in said.items()}
    assert judged(few, wrong, "nplrp", xfails=("*",)).exit_code == 0
    assert judged(few, wrong, "nplrp").exit_code == 1


def test_dialects_differ(few):
    """One dialect's answers fail in another, and only where the two differ."""
    outcome = judged(few, right(few, "zennit-0.5"), "captum-0.9")
    failed = {result.case for result in outcome.results if result.outcome == "FAIL"}
    assert "gamma.dense.z-zero" in failed and "own.flatten.mixed" not in failed
    assert "own.maxpool-2x2.mixed" not in failed or "own.maxpool-2x2.zeros" in failed


@pytest.mark.parametrize("to", ["raw", "npz"])
def test_export_holds_what_is_needed(few, tmp_path, to):
    count = export(few, tmp_path / "in", "zennit-0.5", "float32", to)
    names = (tmp_path / "in" / "cases.txt").read_text().split()
    assert count == len(names) == len(few.only((), "zennit-0.5"))
    case = few["gamma.conv-pads.mixed"]
    answer = case.answer("zennit-0.5")
    if to == "npz":
        data = np.load(tmp_path / "in" / f"{case.name}.npz")
        about = json.loads(str(data["about"]))
        names = {"kernel": "weights/layer/kernel", "R": "layers/layer/relevance"}
        arrays = {names.get(name, name): data[name] for name in data.files if name != "about"}
    else:
        folder = tmp_path / "in" / case.name
        about = json.loads((folder / "about.json").read_text())
        arrays = {}
        for line in (folder / "contents.txt").read_text().splitlines():
            file, dtype, axes, *rest = line.split(" ")
            shape = tuple(map(int, rest[: int(axes)]))
            arrays[" ".join(rest[int(axes) :])] = np.fromfile(folder / file, "<" + dtype).reshape(shape)
        words = dict(line.split(" ", 1) for line in (folder / "case.txt").read_text().splitlines())
        assert words["rule"] == "gamma" and words["gamma"] == "0.25" and words["pads"] == "1 0 2 1" and words["stride"] == "2 1"
    assert about["rule"]["epsilon"] == 1e-6 and about["layers"][-1]["kind"] == "conv"
    assert np.array_equal(arrays["weights/layer/kernel"], case.layer.arrays["kernel"])
    assert np.array_equal(arrays["layers/layer/relevance"], case.R)
    assert np.array_equal(arrays["expected"], answer.tensors[0].values.ravel())
    assert (np.abs(answer.tensors[0].values.astype(np.float32).ravel() - arrays["expected"]) <= arrays["tolerance"]).all()


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_answers_are_read_by_their_size(few, tmp_path, dtype):
    for name, arrays in right(few).items():
        np.concatenate([each.ravel() for each in arrays]).astype(dtype).tofile(tmp_path / f"{name}.bin")
    (tmp_path / f"{few.cases[0].name}.bin").unlink()
    (tmp_path / f"{few.cases[0].name}.txt").write_text("I can't\nreally\n")
    said = read_answers(tmp_path, few)
    assert said[few.cases[0].name] == "I can't" and isinstance(said[few.cases[0].name], Refused)
    assert judged(few, said, "nplrp").counts == {"pass": len(right(few)) - 1, "refused": 1}


def test_answers_in_npz(few, tmp_path):
    np.savez(tmp_path / "all.npz", **{name: np.concatenate([a.ravel() for a in each]) for name, each in right(few).items()})
    assert set(judged(few, read_answers(tmp_path / "all.npz", few), "nplrp").counts) == {"pass"}


@pytest.mark.parametrize("content", [b"", b"abc", b"\0" * 10_000])
def test_answers_of_another_size_are_refused(few, tmp_path, content):
    (tmp_path / "own.add.mixed.bin").write_bytes(content)
    with pytest.raises(GoldenError, match=r"own.add.mixed.bin: has \d+ bytes, expected 144 \(float32\) or 288 \(float64\)"):
        read_answers(tmp_path, few)


def test_what_is_no_folder_of_answers(few, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    for path, what in (("a.npz", "can't be read"), ("gone", "isn't there"), ("../x.bin", "isn't there")):
        with pytest.raises(GoldenError, match=what):
            read_answers(tmp_path / path, few)


def test_xfails_file(tmp_path):
    (tmp_path / "x.txt").write_text("# all of these\nzbox.*\n\nown.add.mixed   # a sum\nzbox.*\n")
    assert read_xfails(tmp_path / "x.txt") == ("zbox.*", "own.add.mixed")
    with pytest.raises(GoldenError, match="can't be read"):
        read_xfails(tmp_path / "gone.txt")


def test_junit(few, tmp_path):
    said = right(few)
    names = list(said)
    said[names[0]] = tuple(each + 1 for each in said[names[0]])
    said[names[1]] = Refused("a control character \x07 and <markup> & more")
    outcome = judged(few, said, "nplrp", backend="<me>", xfails=(names[2],))
    outcome.write_junit(tmp_path / "j.xml")
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    (suite,) = root
    assert root.tag == "testsuites" and suite.tag == "testsuite"
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors"), suite.get("skipped")) == (
        str(len(outcome.results)),
        "1",
        "0",
        "1",
    )
    assert len(suite) == len(outcome.results) and all(each.tag == "testcase" for each in suite)
    assert {child.tag for each in suite for child in each} == {"failure", "skipped", "system-out"}
    whole = {f"{each.get('classname')}.{each.get('name')}" for each in suite}
    assert whole == {result.case for result in outcome.results}
    assert "times the tolerance" in suite.find("testcase/failure").get("message")


def test_functions_of_a_module(few, tmp_path, monkeypatch):
    (tmp_path / "my_port.py").write_text(
        "import numpy as np\n"
        "def flat(q):\n"
        "    if q.layer['kind'] != 'flatten':\n"
        "        raise NotImplementedError('flatten only')\n"
        "    return q.R.reshape(q.inputs[0].shape)\n"
        "def bad(q):\n"
        "    return np.zeros(3)\n"
        "def broken(q):\n"
        "    raise ZeroDivisionError\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    counts = judged(few, answers_of("my_port:flat", few, "nplrp"), "nplrp").counts
    assert counts["pass"] == 1 and counts["refused"] == len(few.only((), "nplrp")) - 1
    assert set(judged(few, answers_of("my_port:broken", few, "nplrp"), "nplrp").counts) == {"FAIL"}
    for backend, what in (("my_port:bad", "has shapes"), ("my_port:gone", "no attribute"), ("my_port:number", "expected a function")):
        with pytest.raises(GoldenError, match=what):
            answers_of(backend, few, "nplrp")


@pytest.mark.parametrize(
    ("backend", "what"),
    [
        ("pytorch", "there is no backend 'pytorch'"),
        ("exec:/no/such/program", "can't be run"),
        (f"exec:{sys.executable} -c 'raise SystemExit(3)'", "ended with exit code 3"),
        ("exec:'", "can't be read as a command"),
        ("zennit", r"zennit: ended with exit code 1: .*ModuleNotFoundError"),
    ],
)
def test_backends_that_cannot_run(few, backend, what):
    with pytest.raises(GoldenError, match=what):
        answers_of(backend, few.only(["own.flatten.*"]), "zennit-0.5", python=None)


def run(*words):
    return main(["conformance", *map(str, words)])


def test_command_line(tmp_path, capsys):
    assert run("--list", "--only", "gamma*.dense.*", "-d", "zennit") == 0
    assert "gamma.dense.z-zero" in capsys.readouterr().out.split()
    assert run("--export", tmp_path / "in", "-k", "zplus.dense.*", "-d", "captum", "--precision", "float64") == 0
    assert "13 cases in dialect captum-0.9" in capsys.readouterr().out
    out = tmp_path / "out"
    out.mkdir()
    assert run(out, "-k", "zplus.dense.*", "-d", "captum") == 4
    for folder in (each for each in (tmp_path / "in").iterdir() if each.is_dir()):
        (out / f"{folder.name}.bin").write_bytes((folder / "expected.bin").read_bytes())
    json_path, junit = tmp_path / "r.json", tmp_path / "r.xml"
    assert run(out, "-k", "zplus.dense.*", "-d", "captum", "--precision", "float64", "--json", json_path, "--junit", junit) == 0
    facts = json.loads(json_path.read_text())
    assert facts["counts"] == {"pass": 13} and facts["exit_code"] == 0 and len(facts["results"]) == 13
    assert ElementTree.parse(junit).getroot().get("tests") == "13"
    capsys.readouterr()
    assert run(out, "-k", "zplus.dense.*", "-d", "innvestigate", "--json", "-") == 1
    assert json.loads(capsys.readouterr().out)["counts"]["FAIL"] > 3
    (tmp_path / "x.txt").write_text("zplus.*\n")
    assert run(out, "-k", "zplus.dense.*", "-d", "innvestigate", "--xfails", tmp_path / "x.txt") == 0
    assert "xfail" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "nothing to judge"),
        (["out", "--backend", "nplrp"], "nothing to judge, or too much"),
        (["gone"], "isn't there"),
        (["--backend", "nplrp", "-d", "zenit"], "there is no dialect"),
        (["--backend", "nplrp", "-k", "nothing.*"], "no case is called"),
        (["--backend", "nplrp", "--precision", "float16"], "there is no precision"),
        (["--backend", "nplrp", "--python", "python"], "--python is for"),
        (["--export", ".", "--to", "hdf5"], "there is no export to 'hdf5'"),
        (["--export", "."], "holds other files"),
    ],
)
def test_bad_usage_is_one_line(words, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert what in err and err.count("\n") == 1 and not (tmp_path / "cases.txt").exists()


def test_import_of_nplrp_stays_light():
    code = "import sys, nplrp, nplrp.cli; assert not [m for m in sys.modules if m.startswith('nplrp.conformance')]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unreadable_suite(tmp_path):
    path = tmp_path / "suite.h5"
    path.write_bytes(Path(sys.modules["nplrp.conformance.suite"].PATH).read_bytes()[:-100])
    with pytest.raises(NplrpError, match="the suite can't be read"):
        load(path)


def test_a_function_that_breaks_fails_its_case(tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text("def answer(question):\n    raise ZeroDivisionError('by 0\\nmore')\n")
    monkeypatch.chdir(tmp_path)
    few = load().only(["epsilon.dense.mixed", "epsilon.dense.z-zero"])
    said = answers_of("breaking:answer", few, "nplrp")
    outcome = judged(few, said, "nplrp", xfails=["*.z-zero"])
    assert [(each.outcome, each.text) for each in outcome.results] == [
        ("FAIL", "ZeroDivisionError: by 0"),
        ("xfail", "ZeroDivisionError: by 0"),
    ]
    assert outcome.exit_code == 1
