"""Made-up face models written in the real files' layouts and full size: BFM.mat, raw BFM parts, ICT-FaceKit."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import scipy.io

from prnbench.benchmarks.fullsize import made_up_model

RAW_VERTICES = 53490
ICT_VERTICES, ICT_FACE_SIDE = 26719, 97  # 97 x 97 = 9,409 vertices of the face area


def bfm_fields(model):
    """The struct of face3d's BFM.mat: columns, 1-based indices, mean split into shape and expression part."""
    mean = model.mean.reshape(-1, 1)
    expression_mean = np.full_like(mean, 25.0)
    return {
        "shapeMU": mean - expression_mean,
        "shapePC": model.identity,
        "shapeEV": model.identity_std[:, None],
        "expMU": expression_mean,
        "expPC": model.expression,
        "expEV": model.expression_std[:, None],
        "texMU": model.albedo.reshape(-1, 1) * 255,
        "texPC": np.ones((len(mean), 2), np.float32),
        "texEV": np.ones((2, 1)),
        "tri": model.triangles.T.astype(np.float64) + 1,
        "tri_mouth": model.mouth_triangles.T.astype(np.float64) + 1,
        "kpt_ind": model.landmarks[None].astype(np.float64) + 1,
    }


def write_face3d(folder: Path, model=None, *, uv=True, drop=(), v73=False, **changed):
    """Write BFM.mat (and BFM_UV.mat); ``drop`` leaves fields out, ``changed`` replaces them."""
    model = model or made_up_model(5, 3)
    fields = {k: v for k, v in {**bfm_fields(model), **changed}.items() if k not in drop}
    path = folder / "BFM.mat"
    if v73:
        _write_v73(path, fields)
    else:
        scipy.io.savemat(path, {"model": fields})
    if uv:
        scipy.io.savemat(folder / "BFM_UV.mat", {"UV": model.uv.astype(np.float64)})
    return path


def _write_v73(path, fields):
    """MATLAB's v7.3: HDF5 behind a 512-byte text header, a struct as a group, arrays transposed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in fields.items():
            file.create_dataset(f"model/{name}", data=np.asarray(value).T)
    with path.open("r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def trim_index():
    """Which 53,215 of the raw model's 53,490 vertices the trimmed one keeps (0-based)."""
    left_out = np.random.default_rng(7).choice(RAW_VERTICES, RAW_VERTICES - 53215, replace=False)
    return np.setdiff1d(np.arange(RAW_VERTICES), left_out)


def write_raw(folder: Path, model=None, *, full=True, drop=()):
    """Write the raw parts; ``full`` the untrimmed 01_MorphableModel.mat, else the trimmed Model_Shape.mat."""
    model = model or made_up_model(5, 3)
    fields, trim = bfm_fields(model), trim_index()

    def untrimmed(values):
        out = np.zeros((RAW_VERTICES, 3, values.shape[1]), np.float32)
        out[trim] = values.reshape(-1, 3, values.shape[1])
        return out.reshape(3 * RAW_VERTICES, -1)

    info = {"trimIndex": trim[:, None] + 1.0, "tri": fields["tri"], "keypoints": fields["kpt_ind"]}
    files = {
        "model_info.mat": info,
        "Model_Expression.mat": {"mu_exp": fields["expMU"], "w_exp": fields["expPC"], "sigma_exp": fields["expEV"]},
        "Model_tri_mouth.mat": {"tri_mouth": fields["tri_mouth"]},
    }
    if full:
        bases = {name: untrimmed(fields[name]) for name in ("shapeMU", "shapePC", "texMU", "texPC")}
        files["01_MorphableModel.mat"] = {**bases, "shapeEV": fields["shapeEV"], "texEV": fields["texEV"]}
        uv = np.zeros((RAW_VERTICES, 2))
        uv[trim] = model.uv
        files["BFM_UV.mat"] = {"UV": uv}
    else:
        shape = {"mu_shape": fields["shapeMU"], "w": fields["shapePC"], "sigma": fields["shapeEV"]}
        files["Model_Shape.mat"] = {**shape, "tri": fields["tri"], "keypoints": fields["kpt_ind"]}
        files["BFM_UV.mat"] = {"UV": model.uv.astype(np.float64)}
    for name, content in files.items():
        if name not in drop:
            scipy.io.savemat(folder / name, content)
    return folder


def ict_mesh():
    """Vertices, texture coordinates, polygons and materials of a made-up mesh in ICT-FaceKit's sizes."""
    side = ICT_FACE_SIDE
    v, u = np.meshgrid(np.linspace(1, 0, side), np.linspace(0, 1, side), indexing="ij")
    angle = (u - 0.5) * np.pi
    face = np.stack([8 * np.sin(angle), 24 * (v - 0.5), 9 * np.cos(angle)], -1).reshape(-1, 3)
    rest = ICT_VERTICES - side * side  # 17,310 = 30 x 577
    back = np.stack(np.meshgrid(np.linspace(-8, 8, 30), np.linspace(-14, 14, rest // 30), indexing="ij"), -1)
    back = np.concatenate([back.reshape(-1, 2), np.full((rest, 1), -2.0)], axis=1) * (-1, 1, 1)
    quads = grid_quads(side, side)
    polygons = [q for quad in quads[:14] for q in ((*quad[[0, 1, 2]], -1), (*quad[[0, 2, 3]], -1))]
    polygons = np.array([*polygons, *quads[14:]])
    behind = grid_quads(30, rest // 30) + side * side
    materials = np.array(["M_Face"] * len(polygons) + ["M_BackHead"] * (len(behind) - 50) + ["M_EyeLashes"] * 50)
    vertices = np.concatenate([face, back]).astype(np.float32)
    uv = np.concatenate([np.stack([u, v], -1).reshape(-1, 2), np.full((rest, 2), 1.5)]).astype(np.float32)
    return vertices, uv, np.concatenate([polygons, behind]), materials


def grid_quads(rows, columns):
    corner = np.arange(rows * columns).reshape(rows, columns)
    return np.stack([corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]], -1).reshape(-1, 4)


def write_ict(folder: Path, mesh=None, identities=2, expressions=("jawOpen", "mouthSmile_L"), modes=None):
    """Write FaceXModel's OBJ files; returns the displacements (n, V, 3), identities first."""
    folder.mkdir(parents=True, exist_ok=True)
    vertices, uv, polygons, materials = mesh or ict_mesh()
    names = [f"identity{n:03d}" for n in range(identities)] + list(expressions)
    if modes is None:
        modes = np.random.default_rng(0).normal(size=(len(names), 1, 3)) * np.sin(vertices)[None]
    tail = _obj_tail(uv, polygons, polygons, materials)
    write_obj(folder / "generic_neutral_mesh.obj", vertices, tail)
    for name, mode in zip(names, modes, strict=True):
        write_obj(folder / f"{name}.obj", vertices + mode, tail)
    return modes


def write_obj(path, vertices, tail=""):
    lines = "v %.6f %.6f %.6f\n" * len(vertices) % tuple(np.asarray(vertices, np.float64).ravel())
    path.write_text(f"# made up\n{lines}{tail}")


def _obj_tail(uv, polygons, polygon_uv, materials):
    lines = ["vt %.6f %.6f\n" * len(uv) % tuple(np.asarray(uv, np.float64).ravel())]
    for n, (ids, uv_ids) in enumerate(zip(polygons.tolist(), polygon_uv.tolist(), strict=True)):
        if n == 0 or materials[n] != materials[n - 1]:
            lines.append(f"usemtl {materials[n]}\n")
        corners = " ".join(f"{a + 1}/{b + 1}" for a, b in zip(ids, uv_ids, strict=True) if a >= 0)
        lines.append(f"f {corners}\n")
    return "".join(lines)


def write_ict_arrays(folder: Path, arrays, identities=2, expressions=2):
    """Write the OBJ folder from ICT-FaceKit's arrays in one file, with the first modes only."""
    folder.mkdir(parents=True, exist_ok=True)
    materials = arrays["material_names"][arrays["face_material"]]
    tail = _obj_tail(arrays["uv"], arrays["faces"], arrays["face_uv"], materials)
    write_obj(folder / "generic_neutral_mesh.obj", arrays["mean"], tail)
    for n in range(identities):
        write_obj(folder / f"identity{n:03d}.obj", arrays["mean"] + arrays["identity"][n].astype(np.float32), tail)
    for n in range(expressions):
        moved = arrays["mean"] + arrays["expression"][n].astype(np.float32)
        write_obj(folder / f"{arrays['expression_names'][n]}.obj", moved, tail)


def write_prnet_files(folder: Path, resolution=256):
    """PRNet's uv-data: weights 255, 128, 64, 48 with an unmasked neck, face mask, its texel list, key points."""
    rows, columns = np.mgrid[:resolution, :resolution]
    face = (np.hypot(rows - 110, columns - 128) < 105) & (rows < 200)
    weights = np.full((resolution, resolution), 48, np.uint8)
    weights[80:160, 60:200] = 64
    weights[150:152, 100:148] = 128
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack([128 + 70 * np.cos(turn), 120 + 60 * np.sin(turn)]).astype(int)
    weights[points[1], points[0]] = 255
    cv2.imwrite(str(folder / "uv_weight_mask.png"), weights)
    cv2.imwrite(str(folder / "uv_face_mask.png"), face.astype(np.uint8) * 255)
    np.savetxt(folder / "face_ind.txt", np.flatnonzero(face))
    np.savetxt(folder / "uv_kpt_ind.txt", points)
    return weights, face, points
