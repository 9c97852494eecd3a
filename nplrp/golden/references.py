"""Audit of iNNvestigate's own reference files: what its tests' tolerance hides, and which faults they would catch.

iNNvestigate keeps, for each analyzer, an HDF5 file with an input, and for six layers the weights, the output and the attribution that a
version once computed (tests/references/layer). Its tests accept ``numpy.allclose`` with the tolerance below.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.errors import WeightsError
from nplrp.files import hdf5
from nplrp.files.plain import map_plain
from nplrp.golden.auditing import VACUOUS
from nplrp.golden.errors import GoldenError
from nplrp.golden.faults import FAULTS, Place, too_slow
from nplrp.golden.isolated import places_of
from nplrp.golden.recording import record
from nplrp.golden.values import Golden
from nplrp.golden.whole_run import Progress
from nplrp.layers import Window
from nplrp.model import Layer, Model, chain
from nplrp.rules import Rule
from nplrp.rules.composites import COMPOSITES, WEIGHTED, Composite, Select
from nplrp.schema import versioned

#: iNNvestigate 2.1.2, tests/analyzer/test_reference_vgg16.py; the tests of single layers have atol = 1e-8.
RTOL, ATOL = 1e-2, 1e-5

_WINDOWS = {"Dense": None, "Conv2D": Window((3, 3)), "AveragePooling2D": Window((2, 2), (2, 2)), "MaxPooling2D": Window((2, 2), (2, 2))}
_KINDS = {"Dense": "dense", "Conv2D": "conv", "AveragePooling2D": "avgpool", "MaxPooling2D": "maxpool"}


def _first(name: str, rule: Rule) -> Composite:
    """Return a preset with another rule where the input is read."""
    return dataclasses.replace(COMPOSITES[name], rows=((Select(WEIGHTED, reads_input=True), rule), *COMPOSITES[name].rows))


#: What nplrp calls each analyzer. The gradients among them are no LRP.
ANALYZERS: Mapping[str, Composite] = {
    "LRPZ": COMPOSITES["lrp.z"],
    "LRPZ_Flat_input_layer_rule": _first("lrp.z", Rule("flat")),
    "LRPZ_boxed_input_layer_rule": _first("lrp.z", Rule("zbox", low=-10.0, high=10.0)),
    "LRPEpsilon": COMPOSITES["lrp.epsilon"],
    "LRPWSquare": COMPOSITES["lrp.w_square"],
    "LRPFlat": COMPOSITES["lrp.flat"],
    "LRPZPlus": COMPOSITES["lrp.z_plus"],
    "LRPZPlusFast": COMPOSITES["lrp.z_plus_fast"],
    "LRPAlpha1Beta0": COMPOSITES["lrp.alpha_1_beta_0"],
    "LRPAlpha1Beta0IgnoreBias": COMPOSITES["lrp.alpha_1_beta_0_IB"],
    "LRPAlpha2Beta1": COMPOSITES["lrp.alpha_2_beta_1"],
    "LRPAlpha2Beta1IgnoreBias": COMPOSITES["lrp.alpha_2_beta_1_IB"],
    "LRPSequentialPresetA": COMPOSITES["lrp.sequential_preset_a"],
    "LRPSequentialPresetAFlat": COMPOSITES["lrp.sequential_preset_a_flat"],
    "LRPSequentialPresetB": COMPOSITES["lrp.sequential_preset_b"],
    "LRPSequentialPresetBFlat": COMPOSITES["lrp.sequential_preset_b_flat"],
    "DeepTaylor": COMPOSITES["deep_taylor"],
    "BoundedDeepTaylor": dataclasses.replace(
        COMPOSITES["deep_taylor"],
        rows=((Select(WEIGHTED, reads_input=True), Rule("zbox", low=-128.0, high=128.0)), *COMPOSITES["deep_taylor"].rows),
    ),
}


@dataclass(frozen=True)
class ReferenceAudit:
    """What one attribution of a reference file could hide.

    Attributes
    ----------
    analyzer, layer : str
    difference : float
        max |d| / max |a| between the attribution and nplrp's in float64, in iNNvestigate's dialect.
    right : bool
        Whether that passes the tolerance.
    zeros : float
        The share of the attribution that is exactly 0.
    bias : float
        The largest |bias| of the layer.
    vacuity : float
        sum min(|a|, tolerance) / sum |a|.
    caught, missed, unchanged : tuple of int
        Numbers of the seeded faults that the comparison of the attribution catches and doesn't; and those that change no bit of it.
    """

    analyzer: str
    layer: str
    difference: float
    right: bool
    zeros: float
    bias: float
    vacuity: float
    caught: tuple[int, ...]
    missed: tuple[int, ...]
    unchanged: tuple[int, ...]

    def __str__(self) -> str:
        telling = len(self.caught) + len(self.missed)
        missed = f", misses {', '.join(map(str, self.missed))}" if self.missed else ""
        unchanged = f"; no bit changes by {', '.join(map(str, self.unchanged))}" if self.unchanged else ""
        return (
            f"{self.layer:<17} {self.difference:>8.1e}{'' if self.right else ' REJECTED'} {self.zeros:>7.1%} {self.bias:>9.2g} "
            f"{self.vacuity:>8.1e}{' VACUOUS' if self.vacuity > VACUOUS else ''}  {len(self.caught)} of {telling}{missed}{unchanged}"
        )


@dataclass(frozen=True)
class ReferenceAudits:
    """What a reference file could hide; prints itself."""

    source: str
    rtol: float
    atol: float
    rows: tuple[ReferenceAudit, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is vacuous, and nplrp's own values are accepted."""
        return all(row.right and row.vacuity <= VACUOUS for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return versioned("golden.references", {**dataclasses.asdict(self), "passed": self.passed})

    def __str__(self) -> str:
        caught, telling = sum(len(r.caught) for r in self.rows), sum(len(r.caught) + len(r.missed) for r in self.rows)
        lines = [
            f"{self.source}: {self.rows[0].analyzer} of iNNvestigate, |d| <= {self.atol:g} + {self.rtol:g} |a|",
            f"{'layer':<17} {'nplrp':>8} {'zeros':>7} {'max |b|':>9} {'vacuity':>8}  seeded faults caught",
            *map(str, self.rows),
        ]
        lines.append(f"caught {caught} of the {telling} faults that change a bit")
        if not any(row.bias for row in self.rows):
            lines.append("all biases are 0, so that no fault of a bias can show")
        return "\n".join(lines)


def is_reference(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is one of iNNvestigate's references, and no golden file."""
    try:
        with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
            return (
                hdf5.child(source, file, "input") is not None
                and bool(hdf5.text(source, file, "analyzer_name"))
                and not hdf5.has_attribute(source, file, "format")
            )
    except (OSError, WeightsError):
        return False


def audit_references(
    path: str | os.PathLike[str], *, rtol: float | None = None, atol: float | None = None, progress: Progress = lambda what: None
) -> ReferenceAudits:
    """Audit one of iNNvestigate's reference files for layers.

    Parameters
    ----------
    path : path
    rtol, atol : float or None
        None for both is the tolerance of iNNvestigate's tests.
    progress : callable
        Told what is being done.

    Raises
    ------
    GoldenError
        If it is no such file, or its analyzer is none that nplrp has.
    """
    rtol, atol = (RTOL, ATOL) if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)
    rows = []
    for analyzer, layer, weights, x, attribution in _references(path):
        progress(f"{analyzer}: {layer}")
        model = _model(path, layer, weights, x.shape[1:])
        golden = record(model, x, ANALYZERS[analyzer])
        if attribution.shape != x.shape:
            raise GoldenError(f"{path}: {layer} has an attribution of shape {attribution.shape}, expected {x.shape}")
        rows.append(_row(analyzer, layer, golden, model, attribution, rtol, atol))
    if not rows:
        raise GoldenError(f"{path}: holds no layers; expected one of tests/references/layer of iNNvestigate")
    return ReferenceAudits(Path(path).name, rtol, atol, tuple(rows))


def _references(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, list[np.ndarray], np.ndarray, np.ndarray]]:
    try:
        with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
            (analyzer,) = hdf5.text(source, file, "analyzer_name") or ("",)
            if analyzer not in ANALYZERS:
                raise GoldenError(f"{path}: {analyzer} isn't audited; expected one of {', '.join(ANALYZERS)}")
            x = _array(source, file, "input")
            for name in sorted(hdf5.members(source, file)):
                group = hdf5.child(source, file, name)
                if isinstance(group, hdf5.Group) and name.removesuffix("_relu") in _KINDS:
                    held = hdf5.child(source, group, "weights")
                    if not isinstance(held, hdf5.Group):
                        raise GoldenError(f"{path}: {name} has no group 'weights'; expected a reference file of iNNvestigate")
                    weights = [hdf5.numbers(source, each) for each in hdf5.datasets(source, held).values()]
                    yield analyzer, name, weights, x, _array(source, group, "attribution")
    except OSError as error:
        raise GoldenError(f"{path}: can't be read: {error.strerror or error}") from None
    except WeightsError as error:
        raise GoldenError(f"{path}: isn't one of iNNvestigate's reference files ({error})") from None


def _array(source: hdf5.Source, group: hdf5.Group, name: str) -> np.ndarray:
    found = hdf5.child(source, group, name)
    if not isinstance(found, hdf5.Dataset):
        raise WeightsError(f"there is no dataset {name!r} in {group.name}")
    return hdf5.numbers(source, found)


def _model(path: str | os.PathLike[str], name: str, weights: list[np.ndarray], shape: tuple[int, ...]) -> Model:
    """Return the network of one layer, made flat, that iNNvestigate's tests build."""
    keras = name.removesuffix("_relu")
    linear = keras in ("Dense", "Conv2D")
    if len(weights) != 2 * linear or (linear and weights[0].ndim != {"Dense": 2, "Conv2D": 4}[keras]):
        raise GoldenError(f"{path}: {name} has {len(weights)} weights of other shapes than a {keras} layer's")
    arrays = dict(zip(("kernel", "bias"), (np.asarray(w, np.float32) for w in weights), strict=False))
    activation = "relu" if name != keras else "linear"
    layer = Layer(name, _KINDS[keras], (), (), activation, _WINDOWS[keras], arrays=arrays)
    return chain(shape, [layer, Layer("flatten", "flatten", (), ())], name)


def _row(analyzer: str, layer: str, golden: Golden, model: Model, attribution: np.ndarray, rtol: float, atol: float) -> ReferenceAudit:
    tensor = golden["input"].relevance
    assert tensor is not None
    a = np.asarray(attribution, np.float64)
    size, d = np.abs(a), np.abs(a - tensor.values)
    tolerance = atol + rtol * size
    found: dict[str, list[int]] = {"caught": [], "missed": [], "unchanged": []}
    places = list(places_of(golden, model, "float32").values())
    right = _down(places, len(places) - 1, None)
    for i in range(len(places)):
        for fault in FAULTS:
            got = None if too_slow(fault, places[i]) else fault.run(places[i])
            if got is None:
                continue
            end = _down(places, i, got)
            what = "unchanged" if np.array_equal(end, right) else "caught" if np.any(np.abs(end - a) > tolerance) else "missed"
            found[what].append(fault.number)
    whole = float(size.sum())
    return ReferenceAudit(
        analyzer,
        layer,
        float(d.max() / size.max()) if whole else float(d.max()),
        bool(np.all(d <= tolerance)),
        float(np.mean(a == 0)),
        float(np.max(np.abs(model.layers[0].arrays.get("bias", np.zeros(1))))),
        float(np.minimum(size, tolerance).sum()) / whole if whole else 0.0,
        *(tuple(sorted(each)) for each in found.values()),
    )


def _down(places: list[Place], i: int, R: np.ndarray | None) -> np.ndarray:
    """Return the relevance of the input: R is what step i gave to its input, None if it is to run, too."""
    for at in reversed(places[: i if R is not None else i + 1]):
        R = (at if R is None else dataclasses.replace(at, R=R)).run()
    assert R is not None
    return R
