"""UV charts: Tutte embedding, vertices to position map and back, UV-space basis, masks, mesh export."""

from prnbench.uv.basis import TorchUvBasis, UvBasis, image_affine
from prnbench.uv.chart import UvChart, chart_of, texel_positions, tutte_chart
from prnbench.uv.raster import ChartRaster
from prnbench.uv.tutte import signed_areas, tutte_embedding

__all__ = [
    "ChartRaster",
    "TorchUvBasis",
    "UvBasis",
    "UvChart",
    "chart_of",
    "image_affine",
    "signed_areas",
    "texel_positions",
    "tutte_chart",
    "tutte_embedding",
]
