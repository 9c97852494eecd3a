"""The command line from the outside: what it prints, writes and refuses, and with which exit code."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.cli import main, make_parser
from nplrp.heatmaps import sheet
from nplrp.images import display, load_pixels

DATA = Path(__file__).parent / "data"
WEIGHTS = str(DATA / "keras_files" / "small32_k3.keras")


@pytest.fixture
def picture(tmp_path, monkeypatch):
    """A small photograph-like picture in a folder of its own, which becomes the working folder."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:50, :60]
    rgb = np.stack([x * 4, y * 5, (x * y) % 256], axis=-1).astype(np.uint8)
    path = tmp_path / "dog.png"
    Image.fromarray(rgb).save(path)
    return path


def run(capsys, *arguments):
    """Run a command; return (exit code, stdout, stderr)."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, without_news(out.err)


def without_news(err):
    """Leave out the line about compiling, which depends on what ran before."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("nplrp: compiling kernels"))


def refused(capsys, *arguments):
    """Run a command that must fail with one line on stderr and exit code 2; return the line."""
    before = sorted(Path.cwd().iterdir())
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("nplrp: ")
    assert err.count("\n") == 1
    assert sorted(Path.cwd().iterdir()) == before, "something was left behind"
    return err


def test_explain_writes_a_heatmap_and_prints_labels(capsys, picture):
    code, out, _ = run(capsys, "explain", picture, "--weights", WEIGHTS)
    assert code == 0
    written = picture.parent / "dog-notebook+epsilon_plus.png"
    assert f"wrote {written.name}" in out
    assert len([line for line in out.splitlines() if line.startswith("    ")]) == 5
    with Image.open(written) as image:  # the picture and two maps
        assert image.width == 3 * 330 + 30


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_notebooks_own_figure_is_one_option_away(capsys, picture):
    assert run(capsys, "explain", picture, "-w", WEIGHTS, "--style", "notebook")[0] == 0
    model = nplrp.load(WEIGHTS)
    e = nplrp.explain(model, nplrp.preprocess(str(picture), model))
    label, shown = e.target_labels()[0], display(load_pixels(str(picture), model))[0]
    expected = nplrp.figure(shown, nplrp.heatmap(e.relevance)[0], label.id, label.name, label.score)
    np.testing.assert_array_equal(pixels_of(picture.parent / "dog-notebook.png"), expected)


def test_looks_of_the_picture(capsys, picture):
    """Every option changes the picture as the same argument of `sheet` does, and nothing else does."""
    model = nplrp.load(WEIGHTS)
    e = nplrp.explain(model, nplrp.preprocess(str(picture), model), "zplus")
    shown, heading = display(load_pixels(str(picture), model))[0], e.target_labels()[0].heading
    seen = []
    for options, same in (
        ([], {}),
        (["--cmap", "PuOr"], {"cmap": "PuOr"}),
        (["--clip", 90], {"clip": 90}),
        (["--clip", 100], {"clip": 100}),
        (["--overlay"], {"overlay": True}),
    ):
        assert run(capsys, "explain", picture, "-w", WEIGHTS, "-c", "zplus", "-o", "out.png", *options)[0] == 0
        seen.append(pixels_of(picture.parent / "out.png"))
        np.testing.assert_array_equal(seen[-1], sheet(shown, {"zplus": e.relevance[0]}, heading, **same))
    assert not any(np.array_equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_explain_draws_a_panel_for_several_composites(capsys, picture):
    code, out, _ = run(capsys, "explain", picture, "-w", WEIGHTS, "-c", "notebook,zplus", "-o", "panel.png")
    assert code == 0
    assert "notebook: relevance of all outputs" in out
    assert "zplus: relevance of output" in out
    assert (picture.parent / "panel.png").stat().st_size > 5000


def test_explain_several_images_into_a_folder(capsys, picture):
    other = picture.with_name("cat.png")
    shutil.copy(picture, other)
    code, _, _ = run(capsys, "explain", picture, other, "-w", WEIGHTS, "-o", "pictures/")
    assert code == 0
    assert {p.name for p in (picture.parent / "pictures").iterdir()} == {f"{name}-notebook+epsilon_plus.png" for name in ("dog", "cat")}


def test_a_network_that_the_readable_composite_has_no_rule_for_is_drawn_by_the_notebooks_alone(capsys, picture, monkeypatch):
    monkeypatch.setattr("nplrp.cli.DEFAULT", ("notebook", "epsilon(epsilon=1e-300)"))
    assert run(capsys, "explain", picture, "-w", WEIGHTS, "-o", "out.png")[0] == 0
    assert pixels_of(picture.parent / "out.png").shape[1] == 2 * 330 + 30


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_explain_saves_numbers(capsys, picture, suffix):
    code, _, _ = run(
        capsys, "explain", picture, "-w", WEIGHTS, "-c", "zplus", "-t", 3, "--save", f"out{suffix}", "--layers", "--dtype", "float64"
    )
    assert code == 0
    model = nplrp.load(WEIGHTS)
    expected = nplrp.explain(model, nplrp.preprocess(str(picture), model), "zplus", target=3, dtype="float64")
    if suffix == ".npz":
        found = np.load(picture.parent / "out.npz")
        note = json.loads(str(found["about"]))
    else:
        found = h5py.File(picture.parent / "out.h5")
        note = json.loads(found.attrs["about"])
    assert np.array_equal(found["relevance"][...], expected.relevance)
    assert np.array_equal(found["relevances/fc1"][...], expected.relevances["fc1"])
    assert np.array_equal(found["activations/block3_conv2"][...], expected.activations["block3_conv2"])
    assert found["targets"][...].tolist() == [3]
    assert note["weights_sha256"] == model.content_hash
    assert note["rules"]["fc1"] == "zplus(epsilon=1e-07, stabiliser=plus)"
    assert not (picture.parent / "dog-zplus.png").exists()
    found.close()


def test_explain_as_json(capsys, picture):
    code, out, _ = run(capsys, "explain", picture, "-w", WEIGHTS, "--json", "--ledger", "--layers")
    assert code == 0
    (result,) = json.loads(out)["results"]
    (image,) = result["images"]
    assert [label["score"] for label in image["labels"]] == sorted((label["score"] for label in image["labels"]), reverse=True)
    assert image["target"] is None
    assert image["layers"]["predictions"] == pytest.approx(1.0, rel=1e-6)
    assert image["ledger"][0]["relevance_in"] == pytest.approx(1.0, rel=1e-6)
    assert not list(picture.parent.glob("*-*.png"))


def test_explain_prints_ledger_and_layers(capsys, picture):
    code, out, _ = run(capsys, "explain", picture, "-w", WEIGHTS, "--ledger", "--layers")
    assert code == 0
    assert "relevance in" in out
    assert "block1_conv1" in out
    assert "min" in out


def test_predict(capsys, picture):
    code, out, _ = run(capsys, "predict", picture, "-w", WEIGHTS, "--top", 2)
    assert code == 0
    assert len(out.splitlines()) == 3
    code, out, _ = run(capsys, "predict", picture, "-w", WEIGHTS, "--json", "--dtype", "float64")
    (row,) = json.loads(out)["images"]
    model = nplrp.load(WEIGHTS)
    expected = nplrp.explain(model, nplrp.preprocess(str(picture), model), dtype="float64").labels(5)[0]
    assert [label["unit"] for label in row["labels"]] == [label.unit for label in expected]
    assert [label["score"] for label in row["labels"]] == [label.score for label in expected]


def test_info(capsys):
    code, out, _ = run(capsys, "info", WEIGHTS)
    assert code == 0
    assert "block1_conv1  conv + relu" in out
    assert nplrp.load(WEIGHTS).content_hash in out
    code, out, _ = run(capsys, "info", WEIGHTS, "--json")
    assert json.loads(out)["input_shape"] == [32, 32, 3]


def test_plan(capsys):
    code, out, _ = run(capsys, "plan", WEIGHTS, "-c", "zplus")
    assert code == 0
    assert "zplus(epsilon=1e-07, stabiliser=plus)" in out


def test_weights_come_from_the_environment(capsys, picture, monkeypatch):
    monkeypatch.setenv("NPLRP_WEIGHTS", WEIGHTS)
    assert run(capsys, "predict", picture)[0] == 0


def test_no_weights_anywhere(capsys, picture, monkeypatch):
    monkeypatch.delenv("NPLRP_WEIGHTS", raising=False)
    for name in ("HOME", "KERAS_HOME", "XDG_CACHE_HOME", "NPLRP_CACHE"):
        monkeypatch.setenv(name, str(picture.parent))
    assert "nplrp fetch vgg16" in refused(capsys, "predict", picture)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "missing.jpg"], "missing.jpg"),
        (["explain", "text.jpg"], "text.jpg"),
        (["explain", "dog.png", "-c", "lrp"], "no composite 'lrp'"),
        (["explain", "dog.png", "-c", "notebook,lrp"], "no composite 'lrp'"),
        (["explain", "dog.png", "-t", "-1"], "no output -1"),
        (["explain", "dog.png", "-t", "dog"], "no class names"),
        (["explain", "dog.png", "--dtype", "float16"], "no dtype 'float16'"),
        (["explain", "dog.png", "--algorithm", "quick"], "no algorithm 'quick'"),
        (["explain", "dog.png", "-o", "none/out.png"], "no folder none"),
        (["explain"], "no image: give the name of a file, or --demo"),
        (["predict"], "no image: give the name of a file, or --demo"),
        (["explain", "dog.png", "--demo"], "a model of its own"),
        (["explain", "dog.png", "--cmap", "rainbows"], "unknown colour map 'rainbows'"),
        (["explain", "dog.png", "--clip", "0"], "clip is 0"),
        (["explain", "dog.png", "--clip", "101"], "clip is 101"),
        (["explain", "dog.png", "--style", "notebook", "--overlay"], "leave out one"),
        (["explain", "dog.png", "--style", "notebook", "-c", "notebook,zplus"], "one map"),
        (["explain", "dog.png", "--style", "notebook", "-t", "top-2"], "one map"),
        (["explain", "dog.png", "-o", "out.xyz"], "out.xyz"),
        (["explain", "dog.png", "--save", "out.txt"], ".npz or .h5"),
        (["explain", "dog.png", "--save", "none/out.npz"], "none/out.npz"),
        (["explain", "dog.png", "--save", "out.npz", "-c", "notebook,zplus"], "one composite"),
        (["explain", "dog.png", "dog.png", "-o", "pictures/"], "two images would be written to"),
        (["explain", "dog.png", "text.jpg", "-o", "one.png"], "need a folder"),
        (["explain", "dog.png", "--resample", "sharp"], "sharp"),
        (["predict", "dog.png", "-w", "missing.h5"], "missing.h5"),
        (["info", "text.jpg"], "text.jpg"),
        (["info", "empty.h5"], "empty.h5"),
        (["info", "truncated.keras"], "truncated.keras"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, picture, arguments, message):
    (picture.parent / "text.jpg").write_text("I am no picture")
    (picture.parent / "empty.h5").touch()
    (picture.parent / "truncated.keras").write_bytes(Path(WEIGHTS).read_bytes()[:-1000])
    if "-w" not in arguments and arguments[0] != "info":
        arguments = [*arguments, "-w", WEIGHTS]
    assert message in refused(capsys, *arguments)


def test_nan_weights_are_named(capsys, picture):
    bad = picture.with_name("nan.h5")
    shutil.copy(DATA / "keras_files" / "small32_k2_model_save.h5", bad)
    with h5py.File(bad, "r+") as file:
        file["model_weights/block2_conv1/block2_conv1/kernel:0"][1, 2, 3, 4] = np.nan
    assert "layer 'block2_conv1': kernel[1, 2, 3, 4] is nan" in refused(capsys, "explain", picture, "-w", bad)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", "the following arguments are required: COMMAND; see nplrp --help"),
        ("explian a.png", "COMMAND: there is no 'explian'; did you mean 'explain' or 'plan'? see nplrp --help"),
        ("explain", "no image: give the name of a file, or --demo for the demonstration's model and image"),
        ("explain --wights w.h5", "there is no option '--wights'; did you mean '--weights'? see nplrp explain --help"),
        ("explain a.png --head foo", "--head: there is no 'foo'; there are flatten, avg, max; see nplrp explain --help"),
        ("explain a.png -w", "--weights/-w: expected one argument; see nplrp explain --help"),
        ("explain a.png -w w.h5 b.png", "expected IMAGE in one place, found also b.png; see nplrp explain --help"),
        ("golden check g --p 3", "ambiguous option: --p could match --preprocessing, --python"),
        ("predict a.png --top x", "--top: expected a whole number, found 'x'; see nplrp predict --help"),
        ("info --preprocessing -1,2", "'-1,2' reads as an option; a value that begins with a dash is written OPTION=-1,2; see nplrp info"),
        ("info a.h5 b.h5", "expected W in one place, found also b.h5; see nplrp info --help"),
        ("gallery now", "expected options only, found also now; see nplrp gallery --help"),
        ("fetch vgg11", "model: there is no 'vgg11'; did you mean 'vgg19' or 'vgg16'? see nplrp fetch --help"),
        ("golden", "the following arguments are required: ACTION; see nplrp golden --help"),
        ("golden chekc", "ACTION: there is no 'chekc'; did you mean 'check'? see nplrp golden --help"),
        ("golden record --ouput o", "there is no option '--ouput'; did you mean '--output', "),
        ("golden check g --rtol a", "--rtol: expected a finite number, found 'a'; see nplrp golden check --help"),
        ("serve --prot 80", "there is no option '--prot'; did you mean '--port' or '--host'? see nplrp serve --help"),
        ("serve --demo -w w.h5", "--weights/-w: not allowed with argument --demo; see nplrp serve --help"),
        ("import", "the following arguments are required: IN; see nplrp import --help"),
        ("import a.pth --hed avg", "there is no option '--hed'; did you mean '--head' or '--help'? see nplrp import --help"),
    ],
)
def test_usage_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, *arguments.split()).startswith(f"nplrp: {line}")


def test_options_may_be_cut_and_joined(capsys):
    for arguments in (
        ("info", WEIGHTS, "--js"),
        ("info", "--preproc=-1,2", WEIGHTS),
        ("info", "--", WEIGHTS),
        ("dialects", "--di", "zennit", "captum"),
    ):
        assert run(capsys, *arguments)[0] == 0, arguments


def test_a_full_disk_leaves_nothing(picture):
    """No file may grow beyond 4 KiB: one line, exit code 2, no half-written file."""
    code = (
        "import os, sys, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from nplrp.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", "")}
    done = subprocess.run(
        [sys.executable, "-c", code, "explain", str(picture), "-w", WEIGHTS, "--save", "out.npz"],
        capture_output=True,
        text=True,
        env={key: value for key, value in environment.items() if value},
        cwd=picture.parent,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert without_news(done.stderr).startswith("nplrp: out.npz: can't be written")
    assert sorted(p.name for p in picture.parent.iterdir()) == ["dog.png"]


def test_compiling_is_announced_once(picture, tmp_path):
    command = [sys.executable, "-m", "nplrp.cli", "predict", str(picture), "-w", WEIGHTS, "--preprocessing", "caffe"]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    cold, warm = (subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr for _ in range(2))
    assert cold.count("compiling kernels for this CPU") == 1
    assert "kept for the next time" in cold
    assert warm == ""


def test_as_a_program(picture):
    done = subprocess.run(
        [sys.executable, "-m", "nplrp", "predict", str(picture), "-w", "none.h5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    closed = subprocess.run(
        f"{sys.executable} -m nplrp.cli info {WEIGHTS} --preprocessing caffe | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert without_news(closed.stderr) == ""


def test_quiet_and_verbose(capsys, picture, tmp_path, monkeypatch):
    """Of every command: -q leaves errors and results, -v adds times and where an error arose, and neither outlives its call."""
    out = tmp_path / "out.png"
    for _ in range(2):
        code, printed, said = run(capsys, "explain", picture, "-w", WEIGHTS, "-o", str(out), "-q")
        assert code == 0 and said == "" and "wrote" not in printed and "sum over pixels" in printed and out.exists()
        code, printed, said = run(capsys, "explain", picture, "-w", WEIGHTS, "-o", str(out))
        assert code == 0 and "assuming caffe" in said and "wrote" in printed and " s: " not in said
        code, _, said = run(capsys, "info", "-v", "-w", WEIGHTS)
        assert code == 0 and "22 layers, read in" in said and " s: " in said
        code, _, said = run(capsys, "predict", "absent.png", "-w", WEIGHTS, "-v")
        assert code == 2 and "Traceback" in said and said.splitlines()[-1].startswith("nplrp: absent.png: ")
        code, _, said = run(capsys, "predict", "absent.png", "-w", WEIGHTS, "-q")
        assert code == 2 and said.startswith("nplrp: absent.png: ") and said.count("\n") == 1


def test_every_command_has_q_v_and_where_it_reads_a_model_w():
    def leaves(parser, path=()):
        below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not below:
            yield path, parser
        for action in below:
            for name, each in action.choices.items():
                yield from leaves(each, (*path, name))

    for path, parser in leaves(make_parser()):
        if path == ("import",):  # weights_tools has a parser of its own
            continue
        options = parser._option_string_actions
        assert {"-q", "--quiet", "-v", "--verbose"} <= set(options), path
        assert ("--weights" in options) == ("-w" in options), path
        assert "--config" not in options or "-w" in options, f"{path} reads a model"


def test_weights_are_given_once(capsys):
    for command in ("info", "plan"):
        _, placed, _ = run(capsys, command, WEIGHTS)
        _, named, _ = run(capsys, command, "-w", WEIGHTS)
        assert placed == named != ""
        assert "not allowed with argument" in refused(capsys, command, WEIGHTS, "-w", WEIGHTS)


def test_what_failed_is_in_the_json(capsys, picture):
    for command, key in (("explain", "results"), ("predict", "images")):
        code, printed, _ = run(capsys, command, picture, "absent.png", "-w", WEIGHTS, "--json")
        found = json.loads(printed)
        assert code == 1 and len(found[key]) == 1 and len(found["failed"]) == 1 and found["failed"][0].startswith("absent.png: ")
    code, printed, _ = run(capsys, "composites", "--json")
    assert code == 0 and json.loads(printed)["schema"] == "nplrp.composites/1"
    assert refused(capsys, "composites", "zplus", "--json").endswith("leave the names out\n")
