"""Every text argument of every command, given nonsense: one line, exit code 2, nothing that a terminal would obey, no surprise."""

import argparse
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nplrp import cli, golden
from nplrp.golden.file import write
from nplrp.rules.composites import COMPOSITES
from tests.keras_files import FILES
from tests.networks import images, small_vgg
from tests.torch_files import save, state_dict
from weights_tools import __main__ as tools

NONSENSE = (
    *("", " ", "²", "-1", "--1", "9" * 5000, "-" + "9" * 5000, "nan", "1e999", "0x10", "1_0", "٣", "\udcff", "\x1b[2J\x1b]0;x\x07", "a\nb"),
    *("\u202e", "\0", "(", "[" * 3000, "{" * 3000, "epsilon(", "epsilon(epsilon=²)", "epsilon(epsilon=" + "9" * 5000 + ")", "%s", "{0}"),
    *("top-²", "top-0", "1,2,", ",", "..", "/", "/dev/null", "/dev/zero", "*", "@", "a=b", "'", "NaN,NaN", "x" * 5000, "1/²", "0/0"),
)
#: What takes minutes, or downloads, or serves until it is told to stop, is replaced: where it is looked up.
LONG = {
    "nplrp.serve.server.serve": lambda model, settings, sample, sock: sock.close() or 0,
    "nplrp.serve.workers.supervise": lambda source, settings, sock: sock.close() or 0,
    "nplrp.serve.warmup.warm_up": lambda dtypes, models, say: 0,
    "nplrp.files.fetch.fetch": lambda model: model,
    "nplrp.demo.demo_model": small_vgg,
    "nplrp.gallery.demo_model": small_vgg,
    "nplrp.gallery.COMPOSITES": {"zplus": COMPOSITES["zplus"]},
}
WEIGHTS = str(FILES / "small32_k3.keras")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Return the command lines that work, by command."""
    folder = tmp_path_factory.mktemp("arguments")
    model = small_vgg()
    write(golden.record(model, images(0, 1, model.input_shape)), folder / "g.lrpgold.h5")
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "i.png")
    np.savez(folder / "c.npz", x=np.zeros(3))
    pth, onnx = folder / "squeezenet.pth", folder / "n.onnx"
    save(pth, state_dict("squeezenet1_1"))
    onnx.write_bytes(b"\x08\x07\x12\x07pytorch")  # its contents are another test's
    image, gold = str(folder / "i.png"), str(folder / "g.lrpgold.h5")
    return folder, {
        ("explain",): [image, "-w", WEIGHTS, "-o", str(folder / "out.png")],
        ("predict",): [image, "-w", WEIGHTS],
        ("info",): [WEIGHTS],
        ("plan",): [WEIGHTS],
        ("composites",): ["notebook"],
        ("dialects",): ["nplrp"],
        ("batch",): [image, "-w", WEIGHTS, "-o", str(folder / "run"), "-q"],
        ("merge",): [str(folder / "run"), "-q"],
        ("summary",): [str(folder / "run"), "-q"],
        ("export",): [str(folder / "run"), "--to", "virelay", "--out", str(folder / "virelay"), "-q"],
        ("completion",): ["bash"],
        ("evaluate",): [image, "-w", WEIGHTS, "-c", "zplus", "-m", "sparseness"],
        ("golden", "record"): ["-w", WEIGHTS, "-i", image, "-o", gold],
        ("golden", "show"): [gold],
        ("golden", "verify"): [gold],
        ("golden", "export"): [gold, "-o", str(folder / "e.npz")],
        ("golden", "check"): [gold, str(folder / "c.npz")],
        ("golden", "audit"): [gold],
        ("golden", "identify"): ["--backend", "nplrp", "-k", "epsilon.dense.mixed"],
        ("conformance",): ["--backend", "nplrp", "-k", "epsilon.dense.mixed"],
        ("serve",): ["-w", WEIGHTS, "--port", "0"],
        ("warmup",): ["-w", WEIGHTS],
        ("demo",): ["-o", str(folder / "demo.png")],
        ("gallery",): ["-o", str(folder / "gallery.png")],
        ("fetch",): ["vgg16"],
        ("import",): [WEIGHTS, str(folder / "new.h5"), "--force"],
        ("tools", "import"): [str(pth), str(folder / "new.h5"), "--force", "--preprocessing", "unit", "--input-size", "64"],
        ("tools", "from-keras"): [WEIGHTS, str(folder / "new.h5"), "--force"],
        ("tools", "from-pytorch"): [str(pth), str(folder / "new.h5"), "--force", "--preprocessing", "unit", "--input-size", "64"],
        ("tools", "from-onnx"): [str(onnx), str(folder / "new.h5"), "--force", "--preprocessing", "unit"],
    }


def commands(parser, path=()):
    """Yield (path of names, parser) of all commands."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield path, parser
    for action in inner:
        for name, each in action.choices.items():
            yield from commands(each, (*path, name))


PARSERS = {path: parser for path, parser in commands(cli.make_parser()) if path != ("import",)}
PARSERS |= {("import",): dict(commands(tools.make_parser("nplrp")))["import",]}
PARSERS |= {("tools", *path): parser for path, parser in commands(tools.make_parser())}
PLACES = [
    (path, action)
    for path, parser in PARSERS.items()
    for action in parser._actions
    if action.nargs != 0 and action.dest not in ("help", "version", "scheduler")  # a scheduler is waited for
]


def run(argv):
    """Run a command; return its exit code and what it wrote to stderr and to stdout."""
    streams = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", streams[0])
        patch.setattr("sys.stderr", streams[1])
        patch.setattr("sys.stdin", io.StringIO())
        patch.setenv("NUMBA_NUM_THREADS", "2")  # which serving sets
        for place, instead in LONG.items():
            patch.setattr(place, instead)
        try:
            code = tools.main(argv[1:]) if argv[0] == "tools" else cli.main(argv)
        except SystemExit as stop:
            code = stop.code
    return code, *(stream.getvalue() for stream in streams)


def check(argv):
    code, out, err = run(argv)
    assert code in (0, 1, 2, 3, 4), (argv, code, err)
    assert "unexpected" not in err and "Traceback" not in err, (argv, err)
    assert all(char in "\n\t" or char.isprintable() for char in out + err), (argv, err)
    assert code == 0 or len(err) < 20_000
    if code == 2:
        assert err.startswith("weights_tools: " if argv[0] == "tools" else "nplrp: ") and err.count("\n") == 1, (argv, err)


def given(path, action, line, text):
    """Return a command line with a text in place of one of its arguments."""
    if action.option_strings:
        for option in action.option_strings:
            if option in line:
                del line[line.index(option) : line.index(option) + 2]
        long = next((option for option in action.option_strings if option.startswith("--")), None)
        return [*path, *line, f"{long}={text}"] if long else [*path, *line, action.option_strings[0], text]
    place = [each for each in PARSERS[path]._actions if not each.option_strings].index(action)
    line[place] = text
    return [*path, *line[:place], *line[place + 1 :], "--", text] if text.startswith("-") else [*path, *line]


@pytest.mark.slow
@pytest.mark.parametrize(("path", "action"), PLACES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.dest)
def test_nonsense(path, action, lines, monkeypatch):
    folder, known = lines
    monkeypatch.chdir(folder)
    for text in NONSENSE:
        if action.dest == "images" and text in ("/", ".."):  # all pictures of this machine
            continue
        check(given(path, action, list(known[path]), text))
    assert Path("/dev/null").is_char_device() and Path("/dev/zero").is_char_device()


@pytest.mark.parametrize(("path", "action"), PLACES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.dest)
def test_a_bit_of_nonsense(path, action, lines, monkeypatch):
    folder, known = lines
    monkeypatch.chdir(folder)
    for text in ("²", "\x1b[2J", "9" * 5000):
        check(given(path, action, list(known[path]), text))
