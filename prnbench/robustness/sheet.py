"""Contact sheet: one face under every corruption and severity, to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prnbench.files import replacing
from prnbench.overlay import contact_sheet, draw_box, square_around
from prnbench.robustness.corruptions import corrupted, face_of, generator
from prnbench.robustness.suite import Suite
from prnbench.sample import Sample

SIDE_PX = 112
_COLOURS = 256  # of the palette: keeps the file small


def corruption_sheet(sample: Sample, suite: Suite, side: int = SIDE_PX) -> NDArray[np.uint8]:
    """Rows of corruptions, columns of severities from clean on; the face box is drawn where it is what is harmed."""
    face = face_of(sample)
    tiles: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    for corruption in suite.corruptions:
        moves_box = corruption.id.startswith("box")
        for level in (None, *corruption.levels):
            shown = face
            if level is not None:
                shown = corrupted(face, corruption.id, level, generator(suite.seed, sample.id, corruption.id))
            image = draw_box(shown.image_rgb, shown.box_px) if moves_box else shown.image_rgb
            tiles.append(square_around(image, face.box_px, side)[0])
            labels.append(corruption.id.replace("occlusion", "cover") if level is None else f"{level:g}")
    return contact_sheet(tiles, 6, labels, gap=3)


def write_sheet(sample: Sample, suite: Suite, path: Path) -> None:
    """Write the contact sheet as PNG with a palette."""
    from PIL import Image

    sheet = Image.fromarray(corruption_sheet(sample, suite))
    with replacing(path) as temporary:
        sheet.quantize(_COLOURS).save(temporary, format="png", optimize=True)
