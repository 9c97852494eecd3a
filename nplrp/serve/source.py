"""Which model is served, and its sample picture, so that every worker can load them for itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nplrp.model import Model

#: A photograph that comes with matplotlib: Grace Hopper, in the public domain.
SAMPLE = "grace_hopper.jpg"


@dataclass(frozen=True)
class Source:
    """A weight file, or the demonstration's model.

    Attributes
    ----------
    weights : str or None
        A path; None is looked for as `nplrp explain` does.
    demo : bool
    """

    weights: str | None = None
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
        from nplrp.files.fetch import find_weights
        from nplrp.files.weights import load

        return load(find_weights(self.weights))

    def sample(self) -> np.ndarray:
        """Return a picture to try the model with, uint8 [H, W, 3]: the demonstration's slice, else a photograph."""
        if self.demo:
            from nplrp.demo import demo_image

            return demo_image()
        from matplotlib import cbook

        from nplrp.images import open_image

        with cbook.get_sample_data(SAMPLE) as file:  # type: ignore[union-attr]
            return np.asarray(open_image(file))
