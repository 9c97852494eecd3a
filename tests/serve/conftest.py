import dataclasses

import pytest

from tests.networks import small_vgg
from tests.serve.servers import local


@pytest.fixture(scope="session")
def model():
    names = ("cat", "dog", "golden retriever", "hen", "owl")
    return dataclasses.replace(small_vgg(size=16), classes=tuple((f"n{i}", name) for i, name in enumerate(names)))


@pytest.fixture(scope="session")
def server(model):
    with local(model) as running:
        yield running
