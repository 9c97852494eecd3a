"""What is given stays what it was, or it is said: inputs, files in use, parameters, hashes, and what a terminal is sent."""

import io
import os
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import nplrp
from nplrp import cli
from nplrp.errors import ImageError, OutputError, RuleError, WeightsError
from nplrp.files import keras_config
from nplrp.files.atomic import atomic
from nplrp.files.hdf5 import array, numbers, open_hdf5
from nplrp.files.plain import map_plain, open_plain, read_plain
from nplrp.jit import team
from nplrp.pipes import heedless, readable
from tests.keras_files import FILES
from tests.networks import images, small_vgg
from weights_tools import torch_file

WEIGHTS = FILES / "small32_k2_model_save.h5"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w.h5"
    path.write_bytes(WEIGHTS.read_bytes())
    return path


@pytest.mark.parametrize(
    ("composite", "what"),
    [
        ("epsilon(epsilon=1e39)", "epsilon is 1e+39"),
        ("epsilon(epsilon=1e-60)", "epsilon is 1e-60"),
        ("gamma(gamma=1e40)", "gamma is 1e+40"),
    ],
)
def test_parameters_that_the_dtype_cannot_hold_are_refused_with_the_plan(composite, what):
    model = small_vgg()
    with pytest.raises(RuleError, match="which float32 can't hold") as caught:
        nplrp.make_plan(model, composite)
    assert what in str(caught.value)
    nplrp.make_plan(model, composite, dtype="float64")


def test_maps_that_are_zero_everywhere_are_told(caplog):
    model, x = small_vgg(), images(0, 1, (8, 8, 3))
    assert not nplrp.explain(model, x, "epsilon(epsilon=1e37)").relevance.any()
    assert any("1 of 1 maps are 0 everywhere" in record.getMessage() for record in caplog.records)
    caplog.clear()
    nplrp.explain(model, x, "epsilon")
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_explanation_does_not_change_with_what_it_was_given(dtype):
    model, x = small_vgg(), images(0, 1, (8, 8, 3)).astype(dtype)
    start, mask = np.ones((1, 7), dtype), np.ones(7, dtype)
    e = nplrp.explain(model, x, "zplus", dtype=dtype, at="fc1", start=start, masks={"fc1": mask})
    expected = nplrp.explain(model, x.copy(), "zplus", dtype=dtype, at="fc1", start=start.copy(), masks={"fc1": mask.copy()}).ledger
    x[:], start[:], mask[:] = 9, 9, 0
    assert e.x.max() < 9
    assert (e.start == 1).all()
    assert str(e.ledger) == str(expected)


def test_a_file_that_is_cut_while_it_is_mapped_is_an_error(file):
    model = nplrp.load(file)
    x = images(0, 1, model.input_shape)
    nplrp.predict(model, x)
    size = file.stat().st_size
    os.truncate(file, size // 2)
    for ask in (nplrp.predict, nplrp.explain, nplrp.logits):
        with pytest.raises(WeightsError, match="was changed while the model is in use"):
            ask(model, x)


def test_another_file_under_the_same_name_does_no_harm(file, tmp_path):
    model = nplrp.load(file)
    x = images(0, 1, model.input_shape)
    expected = nplrp.predict(model, x)
    (tmp_path / "new").write_bytes(b"something else")
    (tmp_path / "new").replace(file)
    assert np.array_equal(nplrp.predict(model, x), expected)
    file.unlink()
    assert np.array_equal(nplrp.predict(model, x), expected)


def test_a_changed_number_changes_the_hash_also_with_the_old_time(file, tmp_path, monkeypatch):
    monkeypatch.setenv("NPLRP_CACHE", str(tmp_path / "cache"))
    before, status = nplrp.load(file).content_hash, file.stat()
    bias = nplrp.load(file).layers[0].arrays["kernel"].tobytes()
    content = bytearray(file.read_bytes())
    content[content.index(bias)] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert nplrp.load(file).content_hash != before
    monkeypatch.setattr("nplrp.model.remembered_hash", lambda key, compute: before)
    assert nplrp.load(file).content_hash == before
    assert nplrp.load(file).fresh_hash() != before


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x07", "\x9b31m", "\u202eevil", "\u2028", "\ud800", "\x7f"])
def test_what_a_terminal_would_obey_is_shown(text):
    shown = readable(f"{text}\n\tfine")
    assert all(char in "\n\t" or char.isprintable() for char in shown)
    assert shown.endswith("\n\tfine")


def test_no_stream_of_a_command_sends_control_characters_or_fails_on_a_character(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "ascii", errors="strict", write_through=True))
    with heedless():
        print("a\x1b[31m caf\u00e9 \ud800")
    assert raw.getvalue() == b"a\\x1b[31m caf\\xe9 \\ud800\n"


def test_an_error_that_nobody_expected_is_one_line_and_2(monkeypatch, capsys):
    monkeypatch.setattr(cli, "run_composites", lambda _: 1 / 0)
    assert cli.main(["composites"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected ZeroDivisionError" in err
    monkeypatch.setenv("NPLRP_DEBUG", "1")
    assert cli.main(["composites"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="no plain file"):
            open_plain(path)
    model = small_vgg()
    np.save(tmp_path / "x.npy", images(0, 1, model.input_shape))
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/stdin")):
        for ask in (nplrp.preprocess, lambda *given: next(nplrp.explain_many(*given))):  # /dev/zero took all the memory that there was
            with pytest.raises(ImageError, match="no plain file"):
                ask([path], model)
        for line in (["explain", str(path)], ["predict", str(path)], ["evaluate", "--input", str(path), "-c", "zplus", "-m", "sparseness"]):
            assert cli.main([*line, "-w", str(FILES / "small32_k3.keras")]) == 2
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(OSError, match="more than 99 bytes"):
        read_plain(tmp_path / "large", 99)


def test_a_device_or_pipe_is_never_replaced_by_a_file(tmp_path, capsys):
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="is a device, pipe or socket"), atomic(pipe):
        pass
    assert cli.main(["conformance", "-k", "epsilon.dense.mixed", "--backend", "nplrp", "--json", str(pipe)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a device, pipe or socket" in line
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_backend_without_a_name_is_refused(capsys):
    assert cli.main(["conformance", "-k", "epsilon.dense.mixed", "--backend="]) == 2
    assert "there is no backend ''" in capsys.readouterr().err


def test_many_names_of_one_packed_array_are_refused_or_read_once(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        names = [f"d{i}" for i in range(24)]
        first = file.create_group("d0")
        first.create_dataset("kernel:0", data=np.zeros((500, 500), "f4"), compression="gzip")
        first.attrs["weight_names"] = ["kernel:0"]
        for name in names[1:]:
            file[name] = first
        file.attrs["layer_names"] = names
    with pytest.raises(WeightsError, match="under several names"):
        nplrp.load(path)
    with h5py.File(path, "r+") as file:
        for name in names[1:]:
            del file[name]
            file.create_group(name).attrs["weight_names"] = ["kernel:0"]
            file[name]["kernel:0"] = file["d0/kernel:0"]
    data, _ = map_plain(path)
    with open_hdf5(data) as (file, source):
        arrays = [array(source, file[f"{name}/kernel:0"]) for name in names]
        assert all(each is arrays[0] for each in arrays)


def test_datasets_that_claim_the_same_bytes_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for i in range(3):
            file.create_dataset(f"a{i}", data=np.random.default_rng(i).normal(size=2000), dtype="f8")
    data, _ = map_plain(tmp_path / "w.h5")
    with pytest.raises(WeightsError, match="those before claim"), open_hdf5(data) as (file, source):
        source._stored = 40_000
        array(source, file["a0"])


def test_numbers_that_look_like_a_damaged_heap_are_numbers(tmp_path):
    content = np.frombuffer(b"GCOL\x01\0\0\0" * 4000, "<i8")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("a", data=content)
    data, _ = map_plain(tmp_path / "c.h5")
    with open_hdf5(data) as (file, source):
        assert np.array_equal(numbers(source, file["a"]), content)


def test_outputs_of_one_name_take_no_square_of_their_number():
    refs = [["x", 0, 0]] * 30_000
    begin = time.perf_counter()
    assert list(keras_config._ends(refs, "output_layers", "m"))[-1] == "x_29999"
    assert time.perf_counter() - begin < 10
    assert list(keras_config._ends([[name, 0, 0] for name in ("a", "a_1", "a", "a")], "output_layers", "m")) == [
        "a",
        "a_1",
        "a_2",
        "a_3",
    ]


def test_a_call_with_a_million_values_is_refused():
    with pytest.raises(WeightsError, match="more than 500000 values"):
        keras_config._with_refs([[1] * 1_000_000], lambda value: None)


def test_a_tensor_is_no_larger_than_what_is_stored():
    storage = torch_file._Storage("0", np.dtype("<f4"))
    tensor = torch_file._Tensor(storage, 0, (1 << 20, 1 << 20), (0, 0))
    with pytest.raises(WeightsError, match="more numbers than the 1"):
        tensor.array(np.zeros(1, "f4"), "w")
    assert torch_file._Tensor(storage, 1, (2, 2), (1, 2)).array(np.arange(5, dtype="f4"), "w").tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("given", ["²", "9" * 5000, "٣"])
def test_numbers_of_threads_that_are_none(given, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", given)
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.parallel", None)
    assert team.threads() == team.cores()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"rows": None}, "rows is None, expected a list of tables"),
        ({"base": "zplus", "rows": 5}, "rows is 5"),
        ({"base": "other.toml"}, "base is 'other.toml', expected a preset"),
        ({"base": 7}, "base is 7, expected a text"),
        ({"base": "zplus", "name": ["x"]}, "name is ['x'], expected a text"),
        ({"base": "zplus", "start": 7}, "start is 7, expected a text"),
        ({"base": "zplus", "dialect": []}, "dialect is [], expected a text"),
        ({"base": "zplus", "rows": [{"kind": 7, "rule": "zplus"}]}, "row 1: kind is 7, expected a text or a list of texts"),
        ({"base": "zplus", "rows": [{"name": [7], "rule": "zplus"}]}, "row 1: name is [7]"),
        ({"base": "zplus", "rows": [{"rule": 7}]}, "row 1: rule is 7, expected a text such as"),
        ({"base": "zplus", "rows": [{"first": "false", "rule": "zplus"}]}, "row 1: first is 'false', expected true or false"),
        ({"base": "zplus", "rows": [{"reads_input": 1, "rule": "zplus"}]}, "row 1: reads_input is 1, expected true or false"),
        ({"base": "zplus", "rows": ["x" * 9999]}, "row 1: expected a table with a rule, found 'xxx"),
        ({1: 2, "x": 3}, "a composite has no '1'"),
        ("epsilon(epsilon=1,epsilon=2)", "has a parameter twice"),
        ("epsilon(epsilon=" + "-" * 100_000 + "1)", "is not a composite"),
    ],
)
def test_composites_of_other_values_than_texts_and_tables(table, told):
    with pytest.raises(RuleError) as caught:
        nplrp.make_plan(small_vgg(), table)
    assert told in str(caught.value) and len(str(caught.value)) < 400


def test_a_composite_that_is_based_on_itself_is_told_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("self.toml").write_text('base = "self.toml"')
    with pytest.raises(RuleError, match=r"^self\.toml: base is 'self\.toml', expected a preset; copy the other file's rows$"):
        nplrp.make_plan(small_vgg(), "self.toml")


def test_texts_may_begin_with_a_byte_order_mark(tmp_path):
    """As editors of Windows write them: composites, classes, settings, lists of images."""
    from nplrp.batch.images import find_images
    from weights_tools.__main__ import read_classes

    for name, content in (("c.toml", 'base = "zplus"'), ("c.json", '["a", "b"]'), ("l.txt", "i.png\r\n\r\na\x0c\u2028b.png")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert nplrp.make_plan(small_vgg(), str(tmp_path / "c.toml")).composite.rows
    assert read_classes(tmp_path / "c.json", 2) == (("a", "a"), ("b", "b"))
    assert find_images([f"@{tmp_path / 'l.txt'}"]) == ["i.png", "a\x0c\u2028b.png"]  # what ends a line is a line feed alone
    with pytest.raises(ImageError, match="the list has no name"):
        find_images(["@"])


def test_values_that_mean_another_thing_than_they_look(tmp_path):
    model, x = small_vgg(), images(0, 2, (8, 8, 3))
    for given, told in (
        ({"dtype": None}, "there is no dtype None"),  # NumPy's is float64
        ({"dialect": ""}, "there is no dialect ''"),
        ({"masks": 7}, "masks is 7, expected arrays by the names of layers"),
    ):
        with pytest.raises(nplrp.NplrpError, match=told):
            nplrp.explain(model, x, "zplus", **given)
    masked = np.ma.masked_greater(x, x.mean())
    with pytest.raises(nplrp.NplrpError, match="the input is masked in places"):
        nplrp.explain(model, masked, "zplus")
    assert np.array_equal(nplrp.explain(model, np.ma.array(x), "zplus").relevance, nplrp.explain(model, x, "zplus").relevance)
    with pytest.raises(ImageError, match="its array is masked in places"):
        nplrp.preprocess(np.ma.masked_equal(np.zeros((9, 9, 3), np.uint8), 0), model)
    for ask in (
        lambda: nplrp.explain(model, np.broadcast_to(x[:1], (1 << 40, 8, 8, 3)), "zplus"),
        lambda: nplrp.preprocess(np.broadcast_to(np.uint8(1), (1 << 23, 1 << 23, 3)), model),
    ):
        with pytest.raises(nplrp.NplrpError, match="takes more memory than there is"):
            ask()


def test_a_configuration_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "c.json").open("wb") as content:
        content.truncate(20 << 30)
    begin = time.perf_counter()
    with pytest.raises(WeightsError, match="has 21474836480 bytes, at most"):
        nplrp.load(FILES / "small32_k3.weights.h5", config=tmp_path / "c.json")
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(("text", "on"), [("1", True), ("0", False), ("", False), ("x", False), ("false", False), (" 2 ", True)])
def test_numbas_switches_are_read_as_numba_reads_them(text, on):
    from nplrp.jit.dispatcher import _switch

    assert bool(_switch(text)) == on


def test_a_note_of_several_lines_is_one(capsys):
    import warnings

    with warnings.catch_warnings():
        cli._listen(cli.make_parser("composites").parse_args(["composites"]))
        warnings.showwarning(UserWarning("a\n\n  b" + "x" * 9999), UserWarning, "f", 1)
    err = capsys.readouterr().err
    assert err.startswith("nplrp: note: a bx") and err.count("\n") == 1 and len(err) < 2100
