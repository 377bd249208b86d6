"""Pictures of faces: who, in which pose and light, before what, with what hair, through what camera.

A face's ground truth (:class:`Face`) is drawn first and the picture around it second, each from its own random
stream, so that a picture depends on (seed, index) only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from prnbench.geometry import project, rotation_from_euler, to_image
from prnbench.morphable.model import MorphableModel
from prnbench.render import GBuffer, rasterise, vertex_normals
from prnbench.synthetic import light as sh
from prnbench.synthetic import shade
from prnbench.synthetic.background import background, studio
from prnbench.synthetic.bust import Bust, bust, glasses, shoulders
from prnbench.synthetic.camera import draw_camera, photograph
from prnbench.synthetic.detail import VARIANTS, detail_maps
from prnbench.synthetic.hair import HairStyle, curtain, draw_hair, draw_style, shell, strand_noise
from prnbench.synthetic.head import built_in_head, head_parts
from prnbench.synthetic.occluder import draw_occluder
from prnbench.synthetic.person import SIZE_PX, Body, Face, bodies, camera_points, is_bearded, landmarks_of

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Lamp:
    """Light of a scene in the camera's frame (x right, y up, z to the camera)."""

    sh: Array
    half: Array
    gloss: Array


def picture(
    model: MorphableModel, face: Face, rng: np.random.Generator, *, body: Body | None = None, plain: bool = False
) -> UInt8:
    """Render a face: (450, 450, 3) uint8 RGB; see :func:`render`."""
    return render(model, face, rng, body=body, plain=plain)[0]


def render(
    model: MorphableModel, face: Face, rng: np.random.Generator, *, body: Body | None = None, plain: bool = False
) -> tuple[UInt8, GBuffer]:
    """Render a face: (450, 450, 3) uint8 RGB, and what the bare head and its clothes cover.

    Parameters
    ----------
    body
        The face's vertices and colours, where they were made for many faces at once (:func:`bodies`).
    plain
        Without occluders, glasses and camera faults (for contact sheets).
    """
    lamp = lamp_of(face, rng)
    camera = draw_camera(rng, plain)
    canvas = studio(SIZE_PX) if plain else background(rng, SIZE_PX)
    body = body or bodies(model, [face])[0]
    if model.name == "builtin":
        buffer = _draw_bust(canvas, model, face, body, lamp, rng, plain)
    else:
        buffer = _draw_bare(canvas, model, face, body, lamp)
    if not plain and rng.random() < 0.12:
        draw_occluder(canvas, _box(model, face), lamp.sh, rng)
    return photograph(canvas, camera, face.colour, rng), buffer


def lamp_of(face: Face, rng: np.random.Generator) -> Lamp:
    """Ambient sky, a key lamp from Illum_Para and now and then a fill from behind, exposed for the face."""
    ambient, key = face.illumination[:3], face.illumination[3:6]
    height, side = face.illumination[6:8]
    toward = np.array([np.cos(height) * np.sin(side), np.sin(height), np.cos(height) * np.cos(side)])
    total = np.outer(sh.ambient(), ambient)
    total += np.outer(sh.directional(toward, 0.9), 1.6 * key)
    sky = rng.normal(0, 0.15)
    total[1] += 1.0 * (0.22 + sky) * ambient * np.array([0.95, 1.0, 1.06])
    if rng.random() < 0.35:
        back = np.array([np.sign(rng.normal()) * 0.9, rng.uniform(-0.1, 0.4), rng.uniform(-0.5, 0.1)])
        total += np.outer(sh.directional(back / np.linalg.norm(back), 0.9), rng.uniform(0.1, 0.9) * ambient)
    front = sh.irradiance(sh.sh_basis(np.array([[0, 0, 1.0], [0.6, 0, 0.8], [-0.6, 0, 0.8]])), total).mean()
    total *= 1.0 / max(float(front), 0.05) * rng.lognormal(0.02, 0.10)
    half = toward + np.array([0, 0, 1.0])
    return Lamp(total, half / np.linalg.norm(half), key / max(float(front), 0.3))


def _lit(normals: Float32, lamp: Lamp, rotation: Array, surround: Bust | None = None) -> Float32:
    """(N, 3) light at vertices with normals in the camera's frame, shadowed by the head's precomputed transfer."""
    out = np.empty((len(normals), 3), np.float32)
    light = (lamp.sh * sh.COSINE_LOBE[:, None]).astype(np.float32)
    red_soft = (lamp.sh[:, 0] * sh.SOFT_LOBE).astype(np.float32)
    turned = _rotated_light(lamp.sh.mean(axis=1), rotation)
    turned = np.stack([turned * sh.COSINE_LOBE, turned]).astype(np.float32)
    none = np.zeros((0, 9), np.float32)
    mean, transfer = (surround.normals, surround.transfer) if surround else (normals, none)
    shade.light_vertices(normals, light, red_soft, mean, transfer, turned, out)
    return out


def _rotated_light(light: Array, rotation: Array) -> Array:
    """Light (9,) of the camera's frame in the head's frame: f'(d) = f(R d), by projection on sampled directions."""
    directions, projection = _projection()
    return np.asarray(projection @ (sh.sh_basis(directions @ rotation.T).astype(np.float64) @ light))


@lru_cache(maxsize=1)
def _projection() -> tuple[Array, Array]:
    """60 directions, and (9, 60) that gives a light's coefficients from its values there, by least squares."""
    directions = sh.fibonacci_sphere(60)
    return directions, np.linalg.pinv(sh.sh_basis(directions).astype(np.float64))


def _draw_bust(
    canvas: Float32,
    model: MorphableModel,
    face: Face,
    body: Body,
    lamp: Lamp,
    rng: np.random.Generator,
    plain: bool,
) -> GBuffer:
    surround = bust()
    head_mm = body.vertices / np.float32(1000)
    back = surround.back + (head_mm - model.mean / np.float32(1000))[surround.link]
    whole = np.concatenate([head_mm, back])
    rotation = rotation_from_euler(face.pose[:3])
    normals = vertex_normals(whole, surround.triangles)
    turned = normals @ rotation.T.astype(np.float32)
    count = len(head_mm)
    colours = _linear(body.colours)
    gloss_of_skin = rng.uniform(0.02, 0.16)
    bearded = is_bearded(face.texture)
    style = draw_style(rng, float(rng.beta(1, 3)), dark=face.texture[0] < -0.5, bearded=bearded)
    clothes, body_table = _clothes(face, lamp, rng)
    points, triangles = np.concatenate([_pixels(whole, face), clothes]), _dressed_triangles()
    buffer = rasterise(points, triangles, SIZE_PX, SIZE_PX, cull=True)
    everything = np.concatenate([_template(), body_table])
    table = everything[: len(whole)]
    table[:count, :3] = colours
    table[count:, :3] = colours[surround.link]
    table[:, shade.LIGHT : shade.LIGHT + 3] = _lit(turned, lamp, rotation, surround)
    table[:, shade.NORMAL : shade.NORMAL + 3] = turned
    table[:, shade.GLOSS] = gloss_of_skin
    look, eyes = _look(style, colours, bearded, rng), _eyes(face, rng)
    maps = detail_maps()[int(rng.integers(VARIANTS))]
    gloss = lamp.gloss.astype(np.float32)
    half = lamp.half.astype(np.float32)
    drawn = canvas.copy()
    shade.shade(buffer.triangle, buffer.weights, triangles, everything, maps, look, eyes, half, gloss, drawn)
    shade.smooth_edges(drawn, canvas)
    hair = _draw_hair(canvas, whole, normals, face, lamp, style, rotation, buffer.depth, rng)
    if not plain and rng.random() < 0.17:
        _draw_glasses(canvas, head_mm, model, face, lamp, rotation, np.maximum(buffer.depth, hair), rng)
    return buffer


@lru_cache(maxsize=1)
def _template() -> Float32:
    """The head's attribute table with what is the same in every picture: chart, part coordinates and kind."""
    parts, count = head_parts(), len(head_parts().part)
    table = np.zeros((count + len(bust().back), shade.ATTRIBUTES), np.float32)
    table[:count, shade.UV : shade.UV + 2] = built_in_head().uv
    table[:count, shade.LOCAL : shade.LOCAL + 2] = parts.local
    ball = (parts.part == 1) & (parts.local[:, 0] < 1.9)
    kinds = [ball, parts.part == 2, parts.part == 0]
    table[:, shade.KIND] = shade.PLAIN
    table[:count, shade.KIND] = np.select(kinds, [shade.BALL, shade.MOUTH, shade.SKIN], shade.PLAIN)
    return table


def _draw_bare(canvas: Float32, model: MorphableModel, face: Face, body: Body, lamp: Lamp) -> GBuffer:
    """Any other face model: its own albedo or a skin tone, no hair, no body."""
    vertices = body.vertices
    rotation = rotation_from_euler(face.pose[:3])
    turned = vertex_normals(vertices, model.triangles) @ rotation.T.astype(np.float32)
    table = np.zeros((len(vertices), shade.ATTRIBUTES), np.float32)
    table[:, :3] = _linear(body.colours)
    table[:, shade.LIGHT : shade.LIGHT + 3] = _lit(turned, lamp, rotation)
    table[:, shade.NORMAL : shade.NORMAL + 3] = turned
    table[:, shade.KIND] = shade.PLAIN
    table[:, shade.GLOSS] = 0.08
    points = camera_points(vertices, face.pose)
    buffer = rasterise(points, model.triangles, SIZE_PX, SIZE_PX)
    drawn = canvas.copy()
    none = np.zeros(16, np.float32)
    shade.shade(buffer.triangle, buffer.weights, model.triangles, table, np.zeros((2, 2, 4), np.uint8), none,
                none[:8], lamp.half.astype(np.float32), lamp.gloss.astype(np.float32), drawn)  # fmt: skip
    shade.smooth_edges(drawn, canvas)
    return buffer


def _pixels(mm: Float32, face: Face) -> Float32:
    """Exact image points of vertices in mm, in float32."""
    return camera_points(mm, face.pose * (1, 1, 1, 1, 1, 1, 1000))


def _linear(display: Float32) -> Float32:
    return np.asarray(np.clip(display, 0.0, 1.0) ** np.float32(2.2), np.float32)


def _look(style: HairStyle, colours: Float32, bearded: bool, rng: np.random.Generator) -> Float32:
    """Strengths of the chart's details: see ``shade.shade``."""
    hair = np.array(style.colour)
    brow = 0.55 * hair + 0.45 * np.array([0.02, 0.014, 0.010])
    beard = 0.7 * hair + 0.3 * np.array([0.03, 0.025, 0.022])
    freckles = rng.uniform(0, 0.12) if rng.random() < 0.75 else rng.uniform(0.15, 0.5)
    stubble = float(rng.choice([rng.uniform(0, 0.25), rng.uniform(0.3, 0.95)], p=[0.6, 0.4])) if bearded else 0.0
    period = float(rng.choice([0, 0, rng.uniform(8, 60)]))
    relief = rng.uniform(0.12, 0.5)
    skin = np.median(colours[::50], axis=0)
    depth = float(rng.choice([-40.0, rng.uniform(-6, 6), rng.uniform(10, 55)], p=[0.25, 0.45, 0.3]))
    pattern = (relief, period, rng.integers(0, 2))
    return np.array([rng.uniform(0.35, 0.95), freckles, stubble, *brow, *beard, *pattern, *skin, depth], np.float32)


_IRISES = np.array([
    (0.050, 0.023, 0.010), (0.080, 0.040, 0.016), (0.026, 0.012, 0.006), (0.10, 0.066, 0.028), (0.075, 0.095, 0.050),
    (0.070, 0.120, 0.175), (0.10, 0.135, 0.155),
])  # fmt: skip


def _eyes(face: Face, rng: np.random.Generator) -> Float32:
    gaze = np.clip(rng.normal(0, (0.13, 0.07)), -0.32, 0.32)
    dark = face.texture[0] < -0.2
    chance = np.array([0.3, 0.25, 0.45, 0, 0, 0, 0]) if dark else np.array([0.26, 0.18, 0.16, 0.10, 0.10, 0.13, 0.07])
    iris = _IRISES[int(rng.choice(len(_IRISES), p=chance))] * rng.lognormal(0, 0.2)
    return np.array([*gaze, *iris, rng.uniform(0.48, 0.525), rng.uniform(0, 0.07), rng.uniform(0.15, 0.25)], np.float32)


@lru_cache(maxsize=1)
def _dressed_triangles() -> NDArray[np.int32]:
    """(F, 3) triangles of the bust, then of the clothes, whose vertices follow the bust's."""
    return np.concatenate([bust().triangles, shoulders()[1] + len(_template())])


def _clothes(face: Face, lamp: Lamp, rng: np.random.Generator) -> tuple[Float32, Float32]:
    """Clothed shoulders that follow the head's turn half-way, as image points with their attributes."""
    points, triangles, pattern = shoulders()
    pivot = np.array([0.0, -105.0, -118.0])
    angles = face.pose[:3] * (0.15, rng.uniform(0.25, 0.9), 0.25) + np.deg2rad(rng.normal(0, (4, 9, 3)))
    R_body, R_head = rotation_from_euler(angles), rotation_from_euler(face.pose[:3])
    size = np.array([rng.uniform(0.86, 1.08), 1.0, rng.uniform(0.9, 1.05)])
    placed = (points - pivot) * size @ R_body.T + pivot @ R_head.T
    placed[:, 1] += rng.uniform(-8, 12)
    scale = face.pose[6] * 1000
    posed = scale * placed + face.pose[3:6]
    normals = vertex_normals(points, triangles) @ R_body.T.astype(np.float32)
    table = np.zeros((len(points), shade.ATTRIBUTES), np.float32)
    value = rng.choice([rng.uniform(0.005, 0.05), rng.uniform(0.05, 0.35), rng.uniform(0.5, 0.8)], p=[0.4, 0.4, 0.2])
    hue = rng.dirichlet([2.2, 2.2, 2.2]) * 3
    table[:, :3] = np.clip(value * (0.4 + 0.6 * hue), 0, 0.9)
    ao = 0.84 + 0.16 * np.clip((-90 - points[:, 1:2]) / 45, 0, 1)
    table[:, shade.LIGHT : shade.LIGHT + 3] = ao * _lit(normals, lamp, R_body)
    table[:, shade.NORMAL : shade.NORMAL + 3] = normals
    table[:, shade.LOCAL : shade.LOCAL + 2] = pattern
    table[:, shade.UV : shade.UV + 2] = points[:, 1:]
    table[:, shade.KIND] = shade.CLOTH
    return to_image(posed, SIZE_PX).astype(np.float32), table


def _draw_hair(
    canvas: Float32, whole: Float32, normals: Float32, face: Face, lamp: Lamp, style: HairStyle, rotation: Array,
    depth: Float32, rng: np.random.Generator,
) -> Float32:  # fmt: skip
    """Blend hair over the canvas where it lies before ``depth``; its own depth (H, W), -inf where there is none."""
    vertices, triangles, strands = shell(whole, normals, style)
    if style.kind == "long":
        width = float(np.ptp(whole[:, 0]) / 190)
        more, more_triangles, more_strands = curtain(width, style, rng)
        triangles = np.concatenate([triangles, more_triangles + len(vertices)])
        vertices, strands = np.concatenate([vertices, more]), np.concatenate([strands, more_strands])
    own = vertex_normals(vertices, triangles)
    turned = own @ rotation.T.astype(np.float32)
    down = vertices - np.array([0, 128, -135], np.float32)
    tangent = (down - own * (down * own).sum(axis=1, keepdims=True)) @ rotation.T.astype(np.float32)
    lit = np.maximum(_lit(turned, lamp, rotation), np.float32(0.04))
    table = np.concatenate([strands, turned, tangent, lit], axis=1).astype(np.float32)
    buffer = rasterise(_pixels(vertices, face), triangles, SIZE_PX, SIZE_PX)
    soft = {"crop": 9.0, "bald": 14.0}.get(style.kind, 5.0)
    look = np.array([style.wave, 3.2 if style.kind != "crop" else 2.2, soft, rng.uniform(0.3, 1.1)], np.float32)
    half, gloss = lamp.half.astype(np.float32), lamp.gloss.astype(np.float32)
    colour = np.array(style.colour, np.float32)
    seen = (buffer.triangle, buffer.weights, buffer.depth, depth)
    draw_hair(*seen, triangles, table, strand_noise(), colour, look, half, gloss, canvas)
    return buffer.depth


def _draw_glasses(
    canvas: Float32, head_mm: Float32, model: MorphableModel, face: Face, lamp: Lamp, rotation: Array, depth: Float32,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    vertices, triangles, kind = glasses(rng)
    bridge, ears = head_mm[model.landmarks[27]], head_mm[model.landmarks[[0, 16]]]
    mean = model.mean / np.float32(1000)
    stretch = np.array([np.ptp(ears[:, 0]) / 148.0, 1.0, 1.0], np.float32)
    vertices = (vertices - mean[model.landmarks[27]]) * stretch + bridge
    frame = kind[triangles].max(axis=1) == 0
    turned = vertex_normals(vertices, triangles) @ rotation.T.astype(np.float32)
    colour = rng.choice([0.01, 0.03, 0.12, 0.3]) * rng.normal(1, 0.2, 3)
    tint = rng.uniform(0.82, 0.97) if rng.random() < 0.8 else rng.uniform(0.03, 0.3)
    points = _pixels(vertices, face)
    lens = rasterise(points, triangles[~frame], SIZE_PX, SIZE_PX)
    seen = lens.covered & (lens.depth > depth - 2)
    glare = rng.uniform(0, 0.05)
    canvas[seen] = canvas[seen] * tint + glare
    buffer = rasterise(points, triangles[frame], SIZE_PX, SIZE_PX)
    seen = buffer.covered & (buffer.depth > depth)
    corner = triangles[frame][buffer.triangle[seen]][:, 0]
    lit = sh.irradiance(sh.sh_basis(turned[corner]), lamp.sh)
    facing = np.maximum(turned[corner] @ lamp.half.astype(np.float32), 0)[:, None] ** 30
    canvas[seen] = np.clip(colour, 0.004, 0.5) * np.maximum(lit, 0.05) + 0.35 * facing * lamp.gloss


def _box(model: MorphableModel, face: Face) -> Array:
    points = to_image(project(landmarks_of(model, face.shape, face.expression), face.pose), SIZE_PX)
    return np.array([*points[:, :2].min(axis=0), *points[:, :2].max(axis=0)])
