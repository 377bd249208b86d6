"""The LightningDataModule over shards: decoding and cropping in workers, exact order, exact resume, exact validation.

The order of an epoch depends on the seed and the epoch alone. Each rank takes its slice of every global batch, so a
global batch holds the same faces with the same augmentation for any number of devices and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from prnbench import geometry
from prnbench.data.shards import ShardSet, open_shards
from prnbench.data.transforms import TEXTURE, Augmentation, FaceBatch, Jitter, reduced, warp
from prnbench.errors import FaceModelError, InputError, PrnbenchError, SampleError, UsageError
from prnbench.landmarks import MIRROR_68
from prnbench.models import trainable
from prnbench.sample import Sample
from prnbench.uv import image_affine

PAPER = Augmentation()
VALIDATION_SHARE = 20
"""One photo identity in this many is held out where the shards name no validation split."""


class Draw(NamedTuple):
    """One face to load: its place, the epoch, which view of it, and whether it counts (see FaceBatch)."""

    face: int
    epoch: int = 0
    view: int = 0
    counts: bool = True


@dataclass(slots=True)
class EpochOrder:
    """Batches of a training epoch for one rank: a seeded permutation, cut into global batches, sliced by rank.

    Faces that do not fill the last global batch wait for the next epoch; a set smaller than one global batch is
    repeated to fill it.
    """

    faces: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    views: int = 1
    epoch: int = 0
    start: int = 0

    def __len__(self) -> int:
        return max(self.faces // (self.batch_size * self.world), 1)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.faces)
        size = self.batch_size * self.world
        order = np.resize(order, max(size, self.faces))
        for batch in range(self.start, len(self)):
            first = batch * size + self.rank * self.batch_size
            mine = order[first : first + self.batch_size]
            yield [Draw(int(index), self.epoch, view) for index in mine for view in range(self.views)]

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch (Lightning calls this); only a resumed epoch starts in its middle."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    @property
    def sampler(self) -> EpochOrder:
        """Itself: where Lightning looks for ``set_epoch``."""
        return self


@dataclass(slots=True)
class RankShare:
    """Validation batches for one rank: every face once over all ranks, the shares filled to equal length.

    The fill does not count: an uncounted face repeats a counted one, so that all ranks run equally many batches.
    """

    faces: int
    batch_size: int
    rank: int = 0
    world: int = 1
    epoch: int = 0

    def __len__(self) -> int:
        return -(-self._share // self.batch_size)

    @property
    def _share(self) -> int:
        return -(-self.faces // self.world)

    def __iter__(self) -> Iterator[list[Draw]]:
        places = [self.rank + k * self.world for k in range(self._share)]
        draws = [Draw(place % self.faces, self.epoch, 0, place < self.faces) for place in places]
        for first in range(0, len(draws), self.batch_size):
            yield draws[first : first + self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        """Follow the training epoch (the resolution may depend on it)."""
        self.epoch = epoch

    @property
    def sampler(self) -> RankShare:
        """Itself: where Lightning looks for ``set_epoch``."""
        return self


@dataclass(slots=True)
class Faces(Dataset[FaceBatch]):
    """Faces as finished batches: decode, crop, and stack into one preallocated batch.

    Parameters
    ----------
    samples
        A ShardSet or any sequence of Samples with images and landmarks.
    resolution
        Crop resolution from each epoch on, ``{0: 256}``.
    augmentation
        None for validation.
    seed
        Of the augmentation.
    crop
        The model's crop of a face box, by default PRNet's.
    """

    samples: Sequence[Sample]
    resolution: dict[int, int] = field(default_factory=lambda: {0: 256})
    augmentation: Augmentation | None = None
    seed: int = 0
    crop: Callable[..., NDArray[np.float64]] = geometry.prn_crop

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, draws: list[Draw]) -> FaceBatch | PrnbenchError:
        """One batch; an error travels as a value, since a worker would bury it in a traceback."""
        try:
            return self.batch(draws)
        except PrnbenchError as error:
            return error

    def batch(self, draws: list[Draw]) -> FaceBatch:
        """The faces of these draws."""
        samples = _read(self.samples, [draw.face for draw in draws])
        jitters = [self._jitter(draw) for draw in draws]
        resolution = resolution_at(self.resolution, draws[0].epoch)
        crops = [self._crop(sample, jitter, resolution) for sample, jitter in zip(samples, jitters, strict=True)]
        images = np.empty((len(draws), resolution, resolution, 3), np.uint8)
        for image, sample, jitter, crop in zip(images, samples, jitters, crops, strict=True):
            image[:] = reduced(warp(sample.image_rgb(), crop, resolution), jitter.reduction)
        return FaceBatch(
            image_BRR3=torch.from_numpy(images),
            crop_B23=torch.from_numpy(np.stack(crops).astype(np.float32)),
            position_map_BMM3=torch.from_numpy(_maps(samples, jitters)),
            landmarks_B683=torch.from_numpy(
                np.stack([_landmarks(s, j) for s, j in zip(samples, jitters, strict=True)])
            ),
            yaw_B=torch.tensor([np.nan if s.yaw_deg is None else s.yaw_deg for s in samples], dtype=torch.float32),
            index_B=torch.tensor([draw.face for draw in draws]),
            counts_B=torch.tensor([draw.counts for draw in draws]),
            flipped_B=torch.tensor([jitter.flip for jitter in jitters]),
            colour_B6=torch.from_numpy(np.stack([_colour(jitter) for jitter in jitters])),
            occluder_B7=torch.from_numpy(np.stack([_or_zeros(j.occluder, (7,)) for j in jitters])),
            texture_B3TT=torch.from_numpy(np.stack([_or_zeros(j.texture, (3, TEXTURE, TEXTURE)) for j in jitters])),
            camera_B34=torch.from_numpy(np.stack([_camera(s, j) for s, j in zip(samples, jitters, strict=True)])),
            shape_BN=torch.from_numpy(_coefficients([sample.shape_params for sample in samples])),
            expression_BE=torch.from_numpy(_coefficients([sample.expression_params for sample in samples])),
        )

    def _crop(self, sample: Sample, jitter: Jitter, resolution: int) -> NDArray[np.float64]:
        box = sample.box_px
        if box is None or not np.isfinite(box).all():
            raise SampleError("no landmarks to crop by", file=sample.id, remedy="convert again without this face")
        return jitter.crop(self.crop(box, resolution=resolution), resolution)

    def _jitter(self, draw: Draw) -> Jitter:
        if self.augmentation is None:
            return Jitter()
        return self.augmentation.draw(np.random.default_rng([self.seed, draw.epoch, draw.face, draw.view]))


def resolution_at(resolution: dict[int, int], epoch: int) -> int:
    """Resolution in an epoch of a curriculum ``{first epoch: resolution}``."""
    return resolution[max(first for first in resolution if first <= epoch)]


def _read(samples: Sequence[Sample], indices: list[int]) -> list[Sample]:
    if hasattr(samples, "__getitems__"):
        return cast(list[Sample], samples.__getitems__(indices))
    return [samples[index] for index in indices]


def _maps(samples: list[Sample], jitters: list[Jitter]) -> NDArray[np.float32]:
    first = samples[0].position_map_px
    if first is None:
        return np.zeros((len(samples), 0, 0, 3), np.float32)
    maps = np.empty((len(samples), *first.shape), np.float32)
    for target, sample, jitter in zip(maps, samples, jitters, strict=True):
        if sample.position_map_px is None:
            raise SampleError("no position map", file=sample.id, remedy="convert with --face-model")
        target[:] = sample.position_map_px[:, ::-1] if jitter.flip else sample.position_map_px
    return maps


def _landmarks(sample: Sample, jitter: Jitter) -> NDArray[np.float32]:
    if sample.landmarks_px is None:
        return np.full((68, 3), np.nan, np.float32)
    return sample.landmarks_px[list(MIRROR_68)] if jitter.flip else sample.landmarks_px


def _camera(sample: Sample, jitter: Jitter) -> NDArray[np.float32]:
    """(3, 4) model space to original pixels, NaN for a mirrored face or one without pose and image size."""
    if jitter.flip or sample.pose_params is None or sample.size_px is None:
        return np.full((3, 4), np.nan, np.float32)
    linear, shift = image_affine(sample.pose_params, sample.size_px[1])
    return np.concatenate([linear[0], shift[0][:, None]], axis=1).astype(np.float32)


def _coefficients(rows: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
    """(B, N); NaN for a face without them, (B, 0) if no face has any."""
    length = next((len(row) for row in rows if row is not None), 0)
    return np.stack([np.full(length, np.nan, np.float32) if row is None else row for row in rows])


def _colour(jitter: Jitter) -> NDArray[np.float32]:
    gain = np.ones(3, np.float32) if jitter.gain is None else jitter.gain
    return np.array([*gain, jitter.contrast, float(jitter.grey), jitter.noise], np.float32)


def _or_zeros(value: NDArray[np.float32] | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32) if value is None else value


class FaceLoader(DataLoader[FaceBatch]):
    """A DataLoader whose place in the epoch can be saved and restored, batch-exact, whatever its workers prefetched."""

    def __init__(self, faces: Faces, order: EpochOrder | RankShare, workers: int):
        keep = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
        pin = torch.cuda.is_available()
        super().__init__(
            faces,
            batch_sampler=cast(Any, order),
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin,
            **cast(Any, keep),
        )
        self.order = order
        self.handed_out = 0

    def __iter__(self) -> Iterator[FaceBatch]:  # type: ignore[override]
        self.handed_out = getattr(self.order, "start", 0)
        for batch in super().__iter__():
            if isinstance(batch, PrnbenchError):
                raise batch
            self.handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch and batches handed out, for a checkpoint."""
        return {"epoch": self.order.epoch, "batches": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the batches that a checkpoint counts."""
        if isinstance(self.order, EpochOrder):
            self.order.epoch, self.order.start = state["epoch"], state["batches"]


def _as_is(batch: Any) -> Any:
    return batch


class FaceData(lightning.LightningDataModule):
    """Training and validation faces of one or two converted data sets.

    Parameters
    ----------
    shards
        Folder that ``prnbench convert`` wrote.
    val_shards
        Another such folder to validate on; None takes the ``val`` split of ``shards``, or else holds out one photo
        identity in 20.
    face_model
        Face model of the position maps; None is the built-in head.
    batch_size
        Faces per device and step.
    resolution
        Side of the crop, or a curriculum ``{first epoch: side}``; None is the model's own.
    augmentation
        How training faces vary.
    views
        Differently augmented views of each face in a batch (for the consistency loss).
    workers
        Loading processes.
    val_faces
        Validate on at most this many faces, evenly spread; 0 takes all.
    seed
        Of order and augmentation.
    model
        The model to train; its file says how to crop and what it needs. ``prnbench train`` gives ``model.model``.
    """

    def __init__(
        self,
        shards: Path,
        val_shards: Path | None = None,
        face_model: Path | None = None,
        batch_size: int = 16,
        resolution: int | dict[int, int] | None = None,
        augmentation: Augmentation = PAPER,
        views: int = 1,
        workers: int = 2,
        val_faces: int = 0,
        seed: int = 0,
        model: str = "prn",
    ):
        super().__init__()
        self.shards, self.val_shards, self.face_model_path = Path(shards), val_shards, face_model
        self.batch_size, self.views, self.workers, self.seed = batch_size, views, workers, seed
        self.model = trainable(model)
        side = self.model.RESOLUTION if resolution is None else resolution
        self.resolution = side if isinstance(side, dict) else {0: side}
        self.augmentation = augmentation
        self.val_faces = val_faces
        self.face_model: Any = None
        self._loader: FaceLoader | None = None
        self._resumed: dict[str, int] = {}
        self.train_faces: Sequence[Sample] | None = None
        self.validation_faces: Sequence[Sample] | None = None
        step = self.model.STEP
        if 0 not in self.resolution or any(side % step for side in self.resolution.values()):
            remedy = f"give a multiple of {step}, or a curriculum such as {{0: {4 * step}, 10: {8 * step}}}"
            raise UsageError(f"resolution {resolution} does not say what every epoch uses", remedy=remedy)

    def setup(self, stage: str | None = None) -> None:
        """Open the shards, split them, load the face model and check that they belong together."""
        if self.train_faces is not None:
            return
        from prnbench.facemodel import load_face_model

        shards = open_shards(self.shards, self.face_model_path)
        self.face_model = load_face_model(self.face_model_path)
        self.check(shards)
        train, held_out = _split(shards)
        validation = held_out if self.val_shards is None else open_shards(self.val_shards, self.face_model_path)
        if self.val_shards is not None:
            train = shards
        if self.val_faces and len(validation) > self.val_faces:
            validation = validation.take(np.linspace(0, len(validation) - 1, self.val_faces).astype(int).tolist())
        if not len(train) or not len(validation):
            remedy = "give more faces, or --data.val_shards"
            raise InputError(
                f"{len(train)} training and {len(validation)} validation faces", file=self.shards, remedy=remedy
            )
        self.train_faces, self.validation_faces = train, validation

    def check(self, shards: ShardSet) -> None:
        """Refuse shards without what the model learns from, or with position maps of another face model."""
        found, needs = shards.face_model_fingerprint, self.model.NEEDS
        if found is None and "position_map_px" in needs:
            remedy = "convert again with --face-model"
            raise FaceModelError("these shards hold no position maps", file=self.shards, remedy=remedy)
        missing = [name for name in needs if len(shards) and getattr(shards[0], name) is None]
        if missing:
            remedy = "train on a set that has them, or another model"
            raise InputError(f"these shards hold no {', '.join(missing)}", file=self.shards, remedy=remedy)
        if "pose_params" in needs and self.augmentation.flip > 0:
            cause = "coefficients of a face model cannot be mirrored"
            raise UsageError(cause, remedy="train without flips: --data.augmentation.flip 0")
        if found is not None and found != self.face_model.fingerprint:
            cause = f"the position maps are not those of the face model {self.face_model.name!r}"
            raise FaceModelError(cause, file=self.shards, remedy="give theirs as --data.face_model")
        if "position_map_px" in needs and self.augmentation.flip > 0:
            require_symmetry(self.face_model)

    def train_dataloader(self) -> FaceLoader:
        """Loader of this rank's share of every global batch, at the place of the checkpoint that is resumed."""
        assert self.train_faces is not None
        faces = Faces(self.train_faces, self.resolution, self.augmentation, self.seed, self.model.crop)
        rank, world = self._place()
        order = EpochOrder(len(faces), self.batch_size, self.seed, rank, world, self.views)
        self._loader = FaceLoader(faces, order, self.workers)
        if self._resumed:
            self._loader.load_state_dict(self._resumed)
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """Place in the training order."""
        return self._loader.state_dict() if self._loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from a checkpoint's place.

        Lightning restores loaders by itself only if nothing asked for their length before (a schedule over all
        steps does).
        """
        self._resumed = state_dict

    def val_dataloader(self) -> FaceLoader:
        """Loader of this rank's share of the validation faces."""
        assert self.validation_faces is not None
        faces = Faces(self.validation_faces, self.resolution, crop=self.model.crop)
        return FaceLoader(faces, RankShare(len(faces), self.batch_size, *self._place()), self.workers)

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)


def _split(shards: ShardSet) -> tuple[ShardSet, ShardSet]:
    """Training and validation faces; photo identities never straddle the two."""
    splits = shards.column("split")
    validation = [i for i, name in enumerate(splits) if name == "val"]
    if not validation:
        groups = [group or name for group, name in zip(shards.column("group"), shards.column("id"), strict=True)]
        held_out = set(sorted(set(groups))[::VALIDATION_SHARE])
        validation = [i for i, group in enumerate(groups) if group in held_out]
    chosen = set(validation)
    return shards.take([i for i in range(len(shards)) if i not in chosen]), shards.take(validation)


def require_symmetry(face_model: Any) -> None:
    """Refuse flips on a chart that is not mirror symmetric (u to 1 - u).

    The mean face's map, flipped along u and mirrored in x, must be the mean face's map to 2 % of its width.

    Raises
    ------
    FaceModelError
        It is not.
    """
    from prnbench.uv import chart_of

    raster = chart_of(face_model).raster(64)
    mean_map, covered = raster.position_map(face_model.mean), raster.covered & raster.covered[:, ::-1]
    width = float(np.ptp(face_model.mean[:, 0]))
    centre = float(face_model.mean[face_model.landmarks, 0].mean())
    mirrored = mean_map[:, ::-1] * np.array([-1, 1, 1]) + np.array([2 * centre, 0, 0])
    gap = float(np.median(np.linalg.norm(mirrored - mean_map, axis=-1)[covered])) / width
    if gap > 0.02:
        cause = f"the chart of {face_model.name!r} is not mirror symmetric (off by {gap:.0%} of the face)"
        raise FaceModelError(cause, remedy="train without flips: --data.augmentation.flip 0")
