"""UV charts: Tutte embedding, vertices to position map and back, UV-space basis, masks, mesh export."""

from prnbench.uv.basis import TorchUvBasis, UvBasis, image_affine
from prnbench.uv.chart import UvChart, chart_of, texel_positions, tutte_chart
from prnbench.uv.masks import PrnetFiles, face_area, read_prnet_files, weight_mask
from prnbench.uv.mesh import unwrap_texture, write_mesh
from prnbench.uv.raster import ChartRaster
from prnbench.uv.tutte import signed_areas, tutte_embedding

__all__ = [
    "ChartRaster",
    "PrnetFiles",
    "TorchUvBasis",
    "UvBasis",
    "UvChart",
    "chart_of",
    "face_area",
    "image_affine",
    "read_prnet_files",
    "signed_areas",
    "texel_positions",
    "tutte_chart",
    "tutte_embedding",
    "unwrap_texture",
    "weight_mask",
    "write_mesh",
]
