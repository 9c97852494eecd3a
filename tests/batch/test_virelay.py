"""A run as ViRelAy reads it: the layout, the analysis, and live what ViRelAy and CoRelAy make of it.

    NPLRP_VIRELAY_PYTHON=/path/to/python pytest -m peers tests/batch/test_virelay.py

The interpreter needs virelay 0.6 and corelay 1.0, and no nplrp.
"""

import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

import nplrp
from nplrp.batch import virelay
from nplrp.batch.virelay import CLUSTERS, COMPONENTS, clusters, components, export
from nplrp.cli import main
from nplrp.images import display, load_pixels
from nplrp.model import Preprocessing, chain
from tests.batch.made import BAD_NAMES, made, named, not_utf8, pictures, unreadable
from tests.networks import conv, dense, plain, random_kernel

ROOT = Path(__file__).parent.parent.parent
COMPOSITES = ("zplus", "gradient")


@pytest.fixture(scope="module")
def model():
    return named()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "pics"
    found = pictures(folder, 20, BAD_NAMES)
    return [*found, not_utf8(folder, found[0]), unreadable(folder)]


@pytest.fixture(scope="module")
def results(model, images, tmp_path_factory):
    return made(tmp_path_factory.mktemp("run") / "run", model, images, COMPOSITES, "top-2", size=6)


@pytest.fixture(scope="module")
def exported(results, tmp_path_factory):
    return export(results, tmp_path_factory.mktemp("export") / "out")


def opened(folder, name):
    with h5py.File(folder / name) as file:
        found = {}
        file.visititems(lambda key, item: found.update({key: item[...]}) if isinstance(item, h5py.Dataset) else None)
        return found


def test_what_is_written(exported, model, images):
    assert (exported.images, exported.maps, exported.blank, exported.labelled) == (21, 42, 0, False)
    names = {"dataset.h5", "label-map.json", *(f"{c}.{kind}" for c in COMPOSITES for kind in ("attribution.h5", "analysis.h5", "yaml"))}
    assert {path.name for path in exported.folder.iterdir()} == names
    readable = images[:-1]
    dataset = opened(exported.folder, "dataset.h5")
    seen = np.repeat(display(load_pixels(readable, model)), 2, axis=0)
    assert dataset["data"].dtype == np.uint8 and (dataset["data"] == np.moveaxis(seen, -1, 1)).all()
    x = nplrp.preprocess(readable, model)
    for composite in COMPOSITES:
        e = nplrp.explain(model, x, composite, "top-2")
        found = opened(exported.folder, f"{composite}.attribution.h5")
        assert found["attribution"].dtype == np.float32
        assert (found["attribution"] == np.moveaxis(e.relevance, -1, 1)).all(), "the very bits"
        assert found["label"].tolist() == np.asarray(e.targets).tolist() and found["label"].dtype == np.uint32
        assert found["prediction"] == pytest.approx(np.repeat(e.output, 2, axis=0), abs=1e-6)
        assert found["index"].tolist() == list(range(42))
    assert dataset["label"].tolist() == np.repeat(e.output.argmax(axis=1), 2).tolist()
    labels = json.loads((exported.folder / "label-map.json").read_text("utf-8"))
    assert [(label["index"], label["word_net_id"]) for label in labels] == [(i, f"n{i}") for i in range(5)]
    assert labels[2]["name"] == "golden retriever"


def test_the_analysis_is_of_all_maps_and_of_every_class(exported):
    labels = opened(exported.folder, "zplus.attribution.h5")["label"]
    with h5py.File(exported.folder / "zplus.analysis.h5") as file:
        counts = {f"n{unit}": int((labels == unit).sum()) for unit in np.unique(labels)}
        assert set(file) == {"all-maps"} | {name for name, count in counts.items() if count >= virelay.FEWEST}
        for name, group in file.items():
            places = np.arange(42) if name == "all-maps" else np.flatnonzero(labels == int(name[1:]))
            assert group["index"][...].tolist() == places.tolist()
            assert group["embedding/pca"].shape == (len(places), COMPONENTS)
            values = group["embedding/pca"].attrs["eigenvalue"]
            assert (np.diff(values) >= 0).all() and values == pytest.approx(
                group["embedding/pca"][...].var(axis=0)[::-1], rel=1e-3, abs=1e-9
            )
            assert list(group["cluster"]) == [f"kmeans-{k:02}" for k in CLUSTERS]
            for k in CLUSTERS:
                assert group[f"cluster/kmeans-{k:02}"][...].max() < k


@pytest.mark.parametrize("shape", [(40, 7), (6, 40), (1, 5), (3, 2)])
def test_components_are_those_of_a_decomposition(shape):
    x = np.random.default_rng(0).normal(size=shape) + 5
    found, variances = components(x, 4)
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    expected = np.zeros((len(x), 4))
    expected[:, : len(s)] = (u * s)[:, :4]
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-9)
    assert variances[: len(s)] == pytest.approx(s[:4] ** 2 / len(x), abs=1e-9)
    assert (found[np.abs(found).argmax(axis=0), range(4)] >= 0).all()


def test_clusters_are_found():
    rng = np.random.default_rng(1)
    sizes = (30, 20, 10)
    x = np.concatenate([rng.normal(size=(n, 3)) * 0.1 + 10 * np.eye(3)[i] for i, n in enumerate(sizes)])
    order = rng.permutation(60)
    truth = np.repeat(range(3), sizes)[order]
    assert (clusters(x[order], 3) == truth).all(), "the largest comes first"
    assert (clusters(x[order], 3) == clusters(x[order], 3)).all()
    assert set(clusters(np.ones((5, 2)), 3)) == {0}, "rows that are alike are one cluster"
    assert len(set(clusters(x[:2], 10))) == 2


def test_true_classes_come_from_folders(tmp_path, model):
    images = [name for folder in ("n3", "n0", "golden_retriever") for name in pictures(tmp_path / folder, 2)]
    done = export(made(tmp_path / "run", model, images), tmp_path / "out")
    assert done.labelled
    assert opened(done.folder, "dataset.h5")["label"].tolist() == [3, 3, 0, 0, 2, 2]
    other = export(made(tmp_path / "run2", model, [*images, *pictures(tmp_path / "what", 1)]), tmp_path / "out2")
    assert not other.labelled, "one folder that is no class, and none is believed"


def test_ids_that_hdf5_can_not_have(tmp_path):
    rng = np.random.default_rng(0)
    layers = [plain("flatten", "flatten"), dense("out", random_kernel(rng, 192, 3), np.zeros(3), "softmax")]
    classes = (("a/b", "x"), ("a", 'y: "z"'), ("a", "'"))
    model = chain((8, 8, 3), layers, 'a "model": \\ # ü\n', classes=classes, preprocessing=Preprocessing("tf"))
    done = export(made(tmp_path / "run", model, pictures(tmp_path / "p", 4)), tmp_path / "out")
    labels = json.loads((done.folder / "label-map.json").read_text("utf-8"))
    assert [label["word_net_id"] for label in labels] == ["00000000", "00000001", "00000002"]
    text = done.projects[0].read_text("ascii")
    assert '  model: "a \\U00000022model\\U00000022: \\U0000005c # \\U000000fc\\U0000000a"' in text.splitlines()


def test_one_channel_stands_in_the_first(tmp_path):
    rng = np.random.default_rng(0)
    model = chain((12, 10, 1), [conv("a", random_kernel(rng, 3, 3, 1, 2))], "grey", preprocessing=Preprocessing("unit"))
    results = made(tmp_path / "run", model, pictures(tmp_path / "p", 3), ("epsilon",), start="all")
    done = export(results, tmp_path / "out")
    found = opened(done.folder, "epsilon.attribution.h5")
    maps = [each.relevance for each in results.maps()]
    assert (found["attribution"][:, 0] == np.stack(maps)[..., 0]).all() and not found["attribution"][:, 1:].any()
    assert found["prediction"][:, 0] == pytest.approx([each.begun for each in results.maps()], rel=1e-6)
    labels = json.loads((done.folder / "label-map.json").read_text("utf-8"))
    assert labels == [{"index": 240, "word_net_id": "all", "name": "all outputs"}] and set(found["label"]) == {240}
    assert opened(done.folder, "dataset.h5")["data"].shape == (3, 3, 12, 10)


@pytest.mark.parametrize("kept", ["float16", "reduced"])
def test_what_is_kept_is_exported(tmp_path, model, images, kept):
    results = made(tmp_path / "run", model, images[:3], kept=kept)
    done = export(results, tmp_path / "out")
    sums = opened(done.folder, "zplus.attribution.h5")["attribution"].sum(axis=(1, 2, 3), dtype=float)
    assert sums == pytest.approx([each.arrived for each in results.maps()], rel=1e-3)


def test_pictures_that_are_gone_are_grey(tmp_path, model, capsys):
    images = pictures(tmp_path / "p", 3)
    results = made(tmp_path / "run", model, images, size=2)
    Path(images[0]).unlink()
    (results.folder / "shards" / "000001.h5").unlink()
    assert main(["export", str(results.folder), "--to", "virelay", "--out", str(tmp_path / "out"), "-q"]) == 0
    told = capsys.readouterr()
    assert "2 maps of 2 images" in told.out and "virelay " in told.out
    assert "1 of 2 shards aren't there yet" in told.err and "1 pictures are gone or have changed" in told.err
    data = opened(tmp_path / "out", "dataset.h5")["data"]
    assert (data[0] == 128).all() and data[1].std() > 0


def test_numbers_of_many_maps_are_left_out(tmp_path, model, images, monkeypatch):
    monkeypatch.setattr(virelay, "NUMBERED", 2)
    done = export(made(tmp_path / "run", model, images[:3]), tmp_path / "out")
    assert "index" not in opened(done.folder, "zplus.attribution.h5")


def test_what_can_not_be_written_leaves_nothing(results, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for out, told in (("full", "holds other files"), ("full/x", "is a file")):
        assert main(["export", str(results.folder), "--to", "virelay", "--out", str(tmp_path / out), "-q"]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.splitlines()) == 1
    assert main(["export", str(results.folder), "--to", "virelai", "--out", str(tmp_path / "o")]) == 2
    assert "did you mean 'virelay'?" in capsys.readouterr().err

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(virelay, "_write_analysis", full)
    assert main(["export", str(results.folder), "--to", "virelay", "--out", str(tmp_path / "o"), "-q"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_nothing_to_export(tmp_path, model, capsys):
    results = made(tmp_path / "run", model, [unreadable(tmp_path)])
    assert main(["export", str(results.folder), "--to", "virelay", "--out", str(tmp_path / "o"), "-q"]) == 2
    assert "no image of this run could be explained" in capsys.readouterr().err
    (results.folder / "shards" / "000000.h5").unlink()
    assert main(["export", str(results.folder), "--to", "virelay", "--out", str(tmp_path / "o"), "-q"]) == 2
    assert "no shard is there yet" in capsys.readouterr().err


# --- live --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def python():
    if "NPLRP_VIRELAY_PYTHON" not in os.environ:
        pytest.skip("NPLRP_VIRELAY_PYTHON names no interpreter")
    return os.environ["NPLRP_VIRELAY_PYTHON"]


def read_by_virelay(python, projects):
    script = ROOT / "tests" / "peers" / "check_virelay.py"
    done = subprocess.run([python, "-W", "ignore", str(script), *map(str, projects)], check=True, capture_output=True, text=True, cwd=ROOT)
    return json.loads(done.stdout)


@pytest.mark.peers
def test_virelay_reads_it(python, exported, results, tmp_path):
    rng = np.random.default_rng(0)
    model = chain((12, 10, 1), [conv("a", random_kernel(rng, 3, 3, 1, 2))], "grey", preprocessing=Preprocessing("unit"))
    grey = export(made(tmp_path / "grey", model, pictures(tmp_path / "p", 3), ("epsilon",), start="all"), tmp_path / "out")
    found = read_by_virelay(python, [*exported.projects, *grey.projects])
    assert set(found["answers"].values()) == {200}
    *mine, other = found["projects"]
    assert [project["name"] for project in mine] == [f"small VGG, {composite} (run)" for composite in COMPOSITES]
    data = opened(exported.folder, "dataset.h5")["data"]
    for k, project in enumerate(mine):
        maps = [each for each in results.maps() if each.composite == k]
        assert len(project["rows"]) == len(maps) == 42
        for row, each, picture in zip(project["rows"], maps, data, strict=True):
            assert row["shape"] == [16, 16, 3] and row["drawn"] == ["(16, 16, 3)"]
            assert row["picture"] == picture.sum(axis=(1, 2), dtype=int).tolist()
            assert row["sum"] == pytest.approx(each.relevance.sum(dtype=float), rel=1e-5, abs=1e-7)
            assert row["sample"] == [int(np.argmax(each.output))] and row["prediction"] == pytest.approx(each.output.tolist())
            assert row["attribution"] == [results.label(each).name.replace("_", " ")]
        analysis = project["analyses"]["pca"]
        assert analysis["embeddings"] == ["pca"] and analysis["clusterings"] == [f"kmeans-{k:02}" for k in CLUSTERS]
        assert {(name, said) for name, said, _ in analysis["categories"]} >= {("all-maps", ""), ("n2", "golden retriever")}
        assert all(shape == [len(places), COMPONENTS] for _, _, each in analysis["categories"] for shape, _, places in each)
    assert [row["attribution"] for row in other["rows"]] == [["all outputs"]] * 3
    assert all(row["drawn"] == ["(12, 10, 3)"] for row in other["rows"])


@pytest.mark.peers
def test_corelay_analyses_it(python, model, tmp_path):
    done = export(made(tmp_path / "run", model, pictures(tmp_path / "p", 40)), tmp_path / "out")
    script = ROOT / "examples" / "virelay_spray.py"
    subprocess.run([python, "-W", "ignore", str(script), str(done.projects[0])], check=True, cwd=tmp_path)
    project = read_by_virelay(python, done.projects)["projects"][0]
    assert set(project["analyses"]) == {"pca", "spray"}
    spray = project["analyses"]["spray"]
    assert spray["embeddings"] == ["spectral", "tsne"] and spray["categories"]
    labels = opened(done.folder, "zplus.attribution.h5")["label"]
    for name, _, each in spray["categories"]:
        assert each[0][2] == np.flatnonzero(labels == int(name[1:])).tolist()
