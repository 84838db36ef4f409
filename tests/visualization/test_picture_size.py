# SPDX-License-Identifier: Apache-2.0
"""A figure whose size is no whole number of pixels becomes a picture."""

import pytest
from matplotlib.figure import Figure

from tubevit_hf.visualization.theme import to_image


@pytest.mark.parametrize("height", [7.0, 7.0267, 7.0233])
def test_a_figure_of_a_fraction_of_a_pixel(height):
    assert to_image(Figure(figsize=(3, height), dpi=100)).size == (300, int(100 * height))
