"""Which output is explained: by index, class id and class name."""

import dataclasses
import time

import numpy as np
import pytest

import nplrp
from nplrp import targets
from nplrp.errors import ModelError
from nplrp.model import Preprocessing, chain
from nplrp.targets import find_target, find_targets, naming_of
from tests.networks import dense, plain, small_vgg

CLASSES = (("n1", "golden_retriever"), ("n2", "tabby"), ("n3", "crane"), ("n4", "crane"), ("n5", "Egyptian_cat"))


@pytest.fixture
def model():
    return dataclasses.replace(small_vgg(), classes=CLASSES)


@pytest.mark.parametrize(
    ("target", "unit"),
    [(0, 0), (np.int64(4), 4), ("3", 3), ("n2", 1), ("golden_retriever", 0), ("Golden retriever", 0), ("egyptian-cat", 4)],
)
def test_found(model, target, unit):
    assert find_target(model, target) == unit


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "no output 5; the model has 5 outputs, 0 to 4"),
        (-1, "no output -1"),
        ("-1", "no output -1"),
        ("crane", r"several outputs: n3 \(index 2\), n4 \(index 3\); give the id"),
        ("goldn retriever", "did you mean golden_retriever"),
        ("zzz", "its 5 classes start with golden_retriever, tabby"),
        (True, "index, a class id or a class name, not True"),
        (1.5, "not 1.5"),
    ],
)
def test_not_found(model, target, message):
    with pytest.raises(ModelError, match=message):
        find_target(model, target)


def test_names_without_classes():
    with pytest.raises(ModelError, match="no class names, so the target 'dog' can't be looked up; give an index from 0 to 4"):
        find_target(small_vgg(), "dog")


def test_several(model):
    assert find_targets(model, None, 2) is None
    assert find_targets(model, "tabby", 2).tolist() == [1, 1]
    assert find_targets(model, ["tabby", 3], 2).tolist() == [1, 3]
    with pytest.raises(ModelError, match="3 targets for 2 images"):
        find_targets(model, [1, 2, 3], 2)


def test_equal_scores_come_in_order(model):
    found = naming_of(model).largest(np.array([0.1, 0.3, 0.3, 0.2, 0.1]), 3)
    assert [label.unit for label in found] == [1, 2, 3]
    assert found[0].name == "tabby"
    assert found[0].id == "n2"


ODD = [1.5, True, b"1", {1: 2}, [[]], "\u00b2", "--5", "9" * 5000, "top-" + "9" * 5000, object(), [1.5], [None], np.array([0.5])]


@pytest.mark.parametrize("target", ODD, ids=lambda each: repr(each)[:12])
@pytest.mark.parametrize("ends", ["vector", "sigmoid", "image"])
def test_odd_targets_are_one_line(target, ends):
    image = chain((4, 4, 3), [plain("relu", "activation", "relu")], "image", preprocessing=Preprocessing("caffe"))
    layers = [plain("flatten", "flatten"), dense("last", np.ones((48, 1 if ends == "sigmoid" else 5)), None, "sigmoid")]
    model = image if ends == "image" else chain((4, 4, 3), layers)
    with pytest.raises(ModelError) as refused:
        nplrp.explain(model, np.ones((1, 4, 4, 3)), "epsilon", target)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_targets_in_other_containers():
    model, x = small_vgg(), np.ones((2, 8, 8, 3))
    for target in (np.array(1), np.int64(1), (each for each in (1, 1)), np.array([1, 1]), (1, 1), iter([1, 1])):
        assert nplrp.explain(model, x, "epsilon", target).targets.tolist() == [1, 1]


def test_positions_are_whole_numbers():
    image = chain((4, 4, 3), [plain("relu", "activation", "relu")], "image", preprocessing=Preprocessing("caffe"))
    for target in [(1.5, 2.7, 0.2)], [np.array([0.9, 1, 2])], [(True, False, True)]:
        with pytest.raises(ModelError, match="a target is a position"):
            nplrp.explain(image, np.ones((1, 4, 4, 3)), "epsilon", target)
    assert nplrp.explain(image, np.ones((1, 4, 4, 3)), "epsilon", "(3, 2, 1)").targets.tolist() == [3 * 12 + 2 * 3 + 1]


def test_a_wrong_name_among_100_000_takes_no_time():
    classes = [(f"n{i}", f"class name number {i}") for i in range(100_000)]
    begun = time.monotonic()
    assert "class name number 123" in targets._similar("class nam number 123", classes)
    assert targets._similar("x" * 1_000_000, classes) == ""
    assert targets._similar("99999", classes) == "class name number 99999"
    assert time.monotonic() - begun < 3
