"""Files of NumPy that are damaged, or claim what is not so: one reason, whatever NumPy makes of them; every command that reads them."""

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest

from nplrp import cli
from nplrp.files import arrays
from nplrp.files.arrays import read_npy, read_npz
from tests.keras_files import FILES

WEIGHTS = str(FILES / "small32_k3.keras")
GOLDEN = FILES.parent / "goldens" / "small-vgg.lrpgold.h5"


def npy(shape="(3,)", content=bytes(12), descr="'<f4'"):
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + content


def npz(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


BAD = {
    "empty": b"",
    "text": b"hello",
    "pickle": b"\x80\x04cposix\nsystem\n(X\x02\0\0\0idtR.",
    "objects": npy(descr="'|O'"),
    "more than there is": npy("(100000, 100000)"),
    "negative": npy("(-1, 3)"),
    "a shape of text": npy("('a',)"),
    "100 axes": npy(f"({'1,' * 100})", bytes(4)),
    "a header that is no Python": b"\x93NUMPY\2\0" + struct.pack("<I", 9000) + b"(" * 9000,
    "a header of a gigabyte": b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 30) + b"{" * 100,
}


@pytest.mark.parametrize("what", BAD)
def test_arrays_that_are_none(tmp_path, what, capsys):
    path, archive = tmp_path / "x.npy", tmp_path / "x.npz"
    path.write_bytes(BAD[what])
    archive.write_bytes(npz([("output.npy", BAD[what])]))
    for read, file in ((read_npy, path), (read_npz, archive)):
        with pytest.raises(ValueError, match=r"."):
            read(file)
    for line in (["evaluate", "--input", str(path), "-m", "sparseness"], ["golden", "record", "-x", str(path), "-o", "g.lrpgold.h5"]):
        assert cli.main([*line, "-w", WEIGHTS]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "unexpected" not in err and ": ;" not in err and "()" not in err, err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (npz([("a.txt", b"x")]), "'a.txt' in it is no array"),
        (npz([("a.npy", npy()), ("a.npy", npy())]), "the array 'a' twice"),
        (npz([("a.npy", npy("(67108864,)", bytes(1 << 28)))], zipfile.ZIP_DEFLATED), "its arrays claim 268435"),
        (npy(), "no zip archive of arrays"),
    ],
)
def test_archives_of_something_else(tmp_path, content, told, capsys, monkeypatch):
    monkeypatch.setattr(arrays, "ARRAYS", 64 << 20)
    path = tmp_path / "c.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_npz(path)
    assert cli.main(["golden", "check", str(GOLDEN), str(path)]) == 2
    assert told in capsys.readouterr().err
    assert cli.main(["conformance", str(path)]) == 2
    assert told in capsys.readouterr().err


def test_relevance_that_is_0_everywhere_is_read(tmp_path):
    """As of a backend with a dead target; 160 MB of it pack into 160 kB."""
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros((20, 1_000_000)))
    assert not read_npz(tmp_path / "zeros.npz")["a"].any()


def test_arrays_that_are_what_they_say(tmp_path):
    kept = {
        "a": np.arange(6.0).reshape(2, 3),
        "b/c": np.asfortranarray(np.eye(3, dtype=">f4")),
        "d": np.array("text"),
        "e": np.zeros((0, 3)),
    }
    np.savez_compressed(tmp_path / "x.npz", **kept)
    for wanted in (None, {"a", "d"}):
        found = read_npz(tmp_path / "x.npz", wanted)
        assert list(found) == [name for name in kept if wanted is None or name in wanted]
        assert all(np.array_equal(found[name], kept[name]) and found[name].dtype == kept[name].dtype for name in found)
    np.save(tmp_path / "x.npy", kept["a"])
    assert np.array_equal(read_npy(tmp_path / "x.npy"), kept["a"])
    with pytest.raises(ValueError, match="several arrays"):
        read_npy(tmp_path / "x.npz")
