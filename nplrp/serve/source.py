"""Which model is served, and its sample picture, so that every worker can load them for itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nplrp.files.given import Given
from nplrp.model import Model

#: A photograph that comes with matplotlib: Grace Hopper, in the public domain.
SAMPLE = "grace_hopper.jpg"


@dataclass(frozen=True)
class Source:
    """A model from a file, or the demonstration's.

    Attributes
    ----------
    given : Given
    demo : bool
    """

    given: Given = field(default_factory=Given)
    demo: bool = False

    def load(self) -> Model:
        """Return the model, its arrays memory-mapped.

        Raises
        ------
        WeightsError
        """
        if self.demo:
            from nplrp.demo import demo_model

            return demo_model()
        return self.given.load()

    def sample(self) -> np.ndarray:
        """Return a picture to try the model with, uint8 [H, W, 3]: the demonstration's slice, else a photograph."""
        if self.demo:
            from nplrp.demo import demo_image

            return demo_image()
        from matplotlib import cbook

        from nplrp.images import open_image

        with cbook.get_sample_data(SAMPLE) as file:  # type: ignore[union-attr]
            return np.asarray(open_image(file))
