"""Fake data in 300W-LP's layout: four sets, pose variants of each photo, flipped copies, landmark files."""

from pathlib import Path

import numpy as np
import scipy.io

from tests.fake.aflw2000_3d import jpeg, parameters

PHOTOS = {
    "AFW": "AFW_1051618982_1",
    "HELEN": "HELEN_100032540_1",
    "IBUG": "IBUG_image_008_1",
    "LFPW": "LFPW_image_test_0001",
}


def write(root: Path, variants=3, seed=0, flips=True, modes=(199, 29)):
    """Write one photo with ``variants`` poses to each set; returns the number of faces that are not flipped."""
    rng = np.random.default_rng(seed)
    for name, photo in PHOTOS.items():
        for folder in [name, f"{name}_Flip"] if flips else [name]:
            for variant in range(variants):
                _face(root, folder, f"{photo}_{variant}", rng, modes)
    (root / "Code").mkdir()
    return len(PHOTOS) * variants


def _face(root, folder, stem, rng, modes):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "landmarks" / folder).mkdir(parents=True, exist_ok=True)
    points = rng.uniform(130, 320, (68, 2))
    fields = parameters(rng, rng.uniform(-90, 90), modes) | {"pt2d": points.T}
    scipy.io.savemat(root / folder / f"{stem}.mat", fields)
    scipy.io.savemat(root / "landmarks" / folder / f"{stem}_pts.mat", {"pts_2d": points + 1, "pts_3d": points})
    (root / folder / f"{stem}.jpg").write_bytes(jpeg(rng))
