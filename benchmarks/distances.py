# SPDX-License-Identifier: Apache-2.0
"""Coarse and fine distances between two pictures' objects, wherever, however large and on whatever
background they are.

Both start from the object alone. The background is each row's median colour at the left and right
borders; `mrti_jax.mini.outline.find_mask` gives the mask m. Colours are CIELAB, so distances are in
units of Delta E (CIE76; about 2 is just visible, black to white is 100).

Coarse (low-pass): shape, proportions and colours. The object is moved and scaled (isotropically,
so proportions stay) until its mask has centroid 0 and geometric mean standard deviation 1, sampled
on a 40 x 40 grid over +-2.6 of these, and blurred by a Gaussian of 0.4 (0.1 diameters, 3.6 px of
a medium object, which leaves next to no texture). Outside the object lies a mid grey that is moved
100 away from all colours along a fourth axis, so that an outline counts whatever the colours:
    coarse = sqrt(sum w (|P - Q|^2 + (100 p - 100 q)^2) / sum w),  w = max(p, q)
for blurred pictures P, Q and their blurred masks p, q.

Fine (high-pass): texture, whatever its phase. The detail d is what is left inside the object
(without its rim, which holds the outline) after taking away the local mean:
    d = m (lab - G*(m lab) / G*m),  G a Gaussian of 3.5 px
It is not rescaled: the world's textures have their periods in px, whatever the object's size.
Its autocovariance over shifts s up to 10 px, for each pair of colour channels (i, j),
    A_ij(s) = sum_x d_i(x) d_j(x + s) / sum_x m(x) m(x + s),
is the Fourier transform of the local power spectrum: it holds angle, period, contrast and colour
axis of the texture, and neither its phase nor the outline of the mask.
    fine = sqrt(sqrt(sum_s,ij v(s) (A_ij - B_ij)^2 / sum_s v(s))),  v a Gaussian of 5 px
so a plain object is at about sqrt(contrast) steps from a patterned one, in Delta E.

Aligned (high-pass, pixel by pixel): the root mean square of d - d' over the common inside, after
the shift (up to 6 px from the centroids) that minimizes it. It sees the phase only where no
shift can hide it, and what the second moments in `fine` can't tell apart.

For two pictures drawn from the same noise, whose layout is the same, `same_noise` needs none of
this: the root mean square CIELAB difference of the whole pictures after a Gaussian of 4 px
(low-pass), and of what it took away (high-pass).

A picture with no object is empty grey without detail; all distances stay defined.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from mrti_jax.mini.outline import find_mask
from mrti_jax.mini.world.palette import lab

GREY = np.array([50.0, 0.0, 0.0], np.float32)
SIDE = 40
SPAN = 2.6
COARSE_BLUR = 0.4
OUTSIDE = 100.0
DETAIL_BLUR = 3.5
REACH = 10
REACH_BLUR = 5.0
SHIFT = 6
NOISE_BLUR = 4.0
MIN_OVERLAP = 0.5
BORDER = 3
RIMS = (2.8, 2.1, 1.2)


@dataclass(frozen=True)
class Distances:
    """Three distances in Delta E; see this file's docstring."""

    coarse: float
    fine: float
    aligned: float


class Cutout:
    """The object of a 64 x 64 sRGB picture, ready to be compared."""

    def __init__(self, image: UInt8[np.ndarray, "64 64 3"]) -> None:
        self.lab = lab(image.astype(np.float32) / 255).astype(np.float32)
        self.mask = _object_mask(self.lab)

    @property
    def found(self) -> bool:
        """Whether there is an object at all."""
        return bool(self.mask.any())

    @cached_property
    def inside(self) -> Float[np.ndarray, "64 64"]:
        """1 inside the object, 0 outside and on its rim."""
        depth = ndimage.distance_transform_edt(self.mask)
        for rim in RIMS:  # less of a rim for thin objects
            if (depth > rim).sum() >= 60:
                return (depth > rim).astype(np.float32)
        return self.mask.astype(np.float32)

    @cached_property
    def centre(self) -> tuple[float, float]:
        """Row and column of the mask's centroid."""
        return ndimage.center_of_mass(self.mask) if self.found else (31.5, 31.5)

    @cached_property
    def coarse(self) -> tuple[Float[np.ndarray, "s s 3"], Float[np.ndarray, "s s"]]:
        """The low-passed object on grey, and its low-passed mask, in the normalised frame."""
        if not self.found:
            return np.broadcast_to(GREY, (SIDE, SIDE, 3)), np.zeros((SIDE, SIDE), np.float32)
        rows, columns = np.nonzero(self.mask)
        scale = float(np.sqrt(rows.std() * columns.std()))
        steps = np.linspace(-SPAN, SPAN, SIDE) * scale
        y, x = self.centre
        where = np.meshgrid(y + steps, x + steps, indexing="ij")
        soft = self.mask.astype(np.float32)

        def normalised(plane: Float[np.ndarray, "64 64"]) -> Float[np.ndarray, "s s"]:
            sampled = ndimage.map_coordinates(plane, where, order=1, mode="constant")
            return ndimage.gaussian_filter(sampled, COARSE_BLUR * SIDE / (2 * SPAN))

        offsets = (self.lab - GREY) * soft[..., None]  # grey itself lies outside
        planes = [normalised(offsets[..., channel]) for channel in range(3)]
        return np.stack(planes, -1) + GREY, normalised(soft)

    @cached_property
    def detail(self) -> Float[np.ndarray, "64 64 3"]:
        """The high-passed inside of the object, zero elsewhere."""
        m = self.inside[..., None]
        mean = _blur(m * self.lab) / np.maximum(_blur(m), 1e-6)
        return m * (self.lab - mean)

    @cached_property
    def autocovariance(self) -> Float[np.ndarray, "3 3 r r"]:
        """A_ij(s) of the detail; zero at shifts that too few pairs of pixels share."""
        padded = [(0, 2 * REACH)] * 2
        planes = np.pad(self.detail, [*padded, (0, 0)]).transpose(2, 0, 1)
        waves = np.fft.rfft2(planes)
        mask_wave = np.fft.rfft2(np.pad(self.inside, padded))
        shape = planes.shape[1:]
        sums = np.fft.irfft2(np.conj(waves)[:, None] * waves[None], s=shape)
        pairs = np.fft.irfft2(np.abs(mask_wave) ** 2, s=shape)
        shifts = np.arange(-REACH, REACH + 1)
        sums, pairs = (a[..., shifts[:, None], shifts[None]] for a in (sums, pairs))
        enough = pairs > 0.1 * max(float(self.inside.sum()), 1.0)
        return np.where(enough, sums / np.maximum(pairs, 1.0), 0.0)


def coarse(a: Cutout, b: Cutout) -> float:
    """Low-pass distance in Delta E; 0 if neither shows an object."""
    (picture_a, mask_a), (picture_b, mask_b) = a.coarse, b.coarse
    weight = np.maximum(mask_a, mask_b)
    squared = ((picture_a - picture_b) ** 2).sum(-1) + (OUTSIDE * (mask_a - mask_b)) ** 2
    return float(np.sqrt((weight * squared).sum() / max(weight.sum(), 1e-6)))


def fine(a: Cutout, b: Cutout) -> float:
    """High-pass distance in Delta E between the textures, whatever their phases."""
    shifts = np.arange(-REACH, REACH + 1)
    window = np.exp(-(shifts[:, None] ** 2 + shifts**2) / (2 * REACH_BLUR**2))
    squared = ((a.autocovariance - b.autocovariance) ** 2).sum((0, 1))
    return float(((window * squared).sum() / window.sum()) ** 0.25)


def aligned(a: Cutout, b: Cutout) -> float:
    """High-pass distance in Delta E, pixel by pixel at the best small shift."""
    (detail_a, inside_a), (detail_b, inside_b) = _centred(a), _centred(b)
    power_a, power_b = (detail_a**2).sum(-1), (detail_b**2).sum(-1)
    if not (a.found and b.found):
        return float(np.sqrt((power_a + power_b).sum() / max((inside_a + inside_b).sum(), 1.0)))
    common = _correlate(inside_a, inside_b)
    products = sum(_correlate(detail_a[..., i], detail_b[..., i]) for i in range(3))
    squared = _correlate(power_a, inside_b) + _correlate(inside_a, power_b) - 2.0 * products
    enough = common >= MIN_OVERLAP * min(inside_a.sum(), inside_b.sum())
    if not enough.any():  # no shift brings enough of them together: nothing in common
        return float(np.sqrt(power_a.sum() / inside_a.sum() + power_b.sum() / inside_b.sum()))
    return float(np.sqrt(max((squared[enough] / common[enough]).min(), 0.0)))


def between(a: Cutout, b: Cutout) -> Distances:
    """All three distances between two pictures."""
    return Distances(coarse(a, b), fine(a, b), aligned(a, b))


def same_noise(a: Cutout, b: Cutout) -> tuple[float, float]:
    """Low-pass and high-pass difference in Delta E of two whole pictures, pixel by pixel."""
    gap = a.lab - b.lab
    low = ndimage.gaussian_filter(gap, (NOISE_BLUR, NOISE_BLUR, 0.0))
    low_pass, high_pass = (np.sqrt((part**2).sum(-1).mean()) for part in (low, gap - low))
    return float(low_pass), float(high_pass)


def to_photos(drawing: Cutout, photos: list[Cutout]) -> Distances:
    """A drawing's mean coarse and fine distance to the photos, and the least aligned one."""
    each = [between(drawing, photo) for photo in photos]
    return Distances(
        float(np.mean([d.coarse for d in each])),
        float(np.mean([d.fine for d in each])),
        min(d.aligned for d in each),
    )


def to_others(pictures: list[Cutout], photos: list[Cutout]) -> list[Distances]:
    """Each picture's distances to all photos but the one in its place, which it shows: for the
    photos themselves, what a perfect drawing would score."""
    return [to_photos(p, photos[:i] + photos[i + 1 :]) for i, p in enumerate(pictures)]


def _object_mask(picture: Float[np.ndarray, "64 64 3"]) -> Bool[np.ndarray, "64 64"]:
    border = np.concatenate([picture[:, :BORDER], picture[:, -BORDER:]], axis=1)
    # The filter over rows passes gradients and stops parts of an object that reach a border.
    rows = ndimage.median_filter(np.median(border, axis=1), size=(9, 1), mode="nearest")
    return find_mask(np.linalg.norm(picture - rows[:, None], axis=-1))


def _blur(planes: Float[np.ndarray, "h w c"]) -> Float[np.ndarray, "h w c"]:
    return ndimage.gaussian_filter(planes, (DETAIL_BLUR, DETAIL_BLUR, 0.0), mode="constant")


def _centred(cutout: Cutout) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Detail and inside with the centroid in the middle (to a whole px), in room to shift."""
    y, x = (round(31.5 - c) for c in cutout.centre)
    room = [(16, 16)] * 2
    detail = np.roll(np.pad(cutout.detail, [*room, (0, 0)]), (y, x), (0, 1))
    return detail, np.roll(np.pad(cutout.inside, room), (y, x), (0, 1))


def _correlate(
    moved: Float[np.ndarray, "h w"], still: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "s s"]:
    """sum_x moved(x - s) still(x) at all shifts s up to SHIFT."""
    waves = np.conj(np.fft.rfft2(moved)) * np.fft.rfft2(still)
    shifts = np.arange(-SHIFT, SHIFT + 1)
    return np.fft.irfft2(waves, s=moved.shape)[shifts[:, None], shifts[None]]
