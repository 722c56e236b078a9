"""From true parameters to images and masks.

A scene is a stack of dye densities on a fine grid in µm; light passes it by Beer and Lambert's law, and one linear map
per image blurs and samples what the camera sees. Outlines are level sets of signed distances roughened by
band-limited noise, the level chosen such that the area is the wanted one. Nothing depends on the grid's spacing,
so that the same cells come out at every resolution. All is computed in float64: what the order of summation changes
lies far below a grey level, so that a cell is the same to the byte in every batch and on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pandas as pd

from balancer.errors import InputError
from balancer.imaging.masks import CYTOPLASM, NUCLEUS
from balancer.smear.parameters import MAX_LOBES

FIELD_UM = 24.0
"""Side of the rendered field."""

DYES = np.array(
    [
        [0.20, 0.86, 0.78],  # eosin in acidophil granules: orange-red
        [0.74, 1.00, 0.36],  # azure B and eosin on DNA (the Romanowsky effect): purple
        [1.00, 0.86, 0.34],  # azure B alone on RNA: blue
        [0.58, 1.00, 0.88],  # haemoglobin with eosin: salmon
    ],
    dtype=np.float64,
)
"""Optical density of one unit of eosin, azure, blue and haemoglobin in red, green and blue light."""

_FINEST = 128  # points across the field, at least: 0.19 µm apart, below the microscope's resolution
_BATCH = 16  # scenes at a time: a plane then fits the processor's cache

Array = np.ndarray


def render(cells: pd.DataFrame, resolution: int) -> tuple[Array, Array]:
    """Render cells.

    `cells` has a row per cell with the columns of `parameters.sample_cells` and `patients.sample_patients`. Returns
    images, uint8 N×R×R×3 (RGB), and masks, uint8 N×R×R with 255 nucleus, 128 cytoplasm and 0 elsewhere; a pixel is
    FIELD_UM / R µm wide. A row gives the same image in any company. Raises InputError for a resolution
    outside 8 … 1024.
    """
    if not 8 <= resolution <= 1024:
        raise InputError(f"The resolution {resolution} is outside 8 to 1024 pixels; choose one within.")
    images = np.empty((len(cells), resolution, resolution, 3), np.uint8)
    masks = np.empty((len(cells), resolution, resolution), np.uint8)
    for start in range(0, len(cells), _BATCH):
        part = slice(start, start + _BATCH)
        images[part], masks[part] = _Scene(cells.iloc[part], resolution).develop()
    return images, masks


class _Scene:
    """A batch of N fields on a grid of S×S points, with the random numbers of each cell's own seed."""

    def __init__(self, cells: pd.DataFrame, resolution: int) -> None:
        self.n = len(cells)
        self.resolution = resolution
        self.s = resolution * -(-_FINEST // resolution)
        self.step = FIELD_UM / self.s
        self.axis = ((np.arange(self.s) + 0.5) * self.step - FIELD_UM / 2).astype(np.float64)
        self.rngs = [np.random.default_rng(seed) for seed in cells["cell_seed"]]
        numbers = cells.select_dtypes("number")
        self.p = {name: numbers[name].to_numpy(np.float64)[:, None, None] for name in numbers}
        self.x = self.axis[None, None, :] - self.p["x_um"]
        self.y = self.axis[None, :, None] - self.p["y_um"]

    # Random building blocks

    def draw(self, *shape: int) -> Array:
        """Uniform numbers in [0, 1), float64 N×shape."""
        return np.stack([rng.random(shape, np.float32) for rng in self.rngs]).astype(np.float64)

    def noise(self, spacing_um: float) -> Array:
        """Noise of zero mean and unit variance without structure finer than about `spacing_um`, N×S×S."""
        spline = _spline(self.s, spacing_um)
        points = spline.shape[1]
        normal = [rng.standard_normal((points, points), np.float32) for rng in self.rngs]
        lattice = np.stack(normal).astype(np.float64)
        return spline @ lattice @ spline.T / 0.479  # the mean of the cubic B-spline's Σb²

    def splat(
        self, counts: Array, discs: Array, profile: Callable[[Array, Array], Array], reach: float
    ) -> Array:
        """Sum profile(distance, radius) over discs, N×S×S.

        `counts`: discs per scene; `discs`: K×5, centre x and y in µm from the field's centre, radius, elongation and
        the long axis's angle; a profile ends `reach` µm beyond the radius at the latest.
        """
        shape = (self.n, self.s, self.s)
        if not len(discs):
            return np.zeros(shape, np.float64)
        cx, cy, radius, elongation, angle = discs.T.astype(np.float64)[:, :, None, None]
        half = int(np.ceil((radius * np.sqrt(elongation)).max() / self.step + reach / self.step)) + 1
        window = np.arange(-half, half + 1)
        column = np.floor((cx + FIELD_UM / 2) / self.step).astype(int) + window[None, None, :]
        row = np.floor((cy + FIELD_UM / 2) / self.step).astype(int) + window[None, :, None]
        dx = ((column + 0.5) * self.step - FIELD_UM / 2 - cx).astype(np.float64)
        dy = ((row + 0.5) * self.step - FIELD_UM / 2 - cy).astype(np.float64)
        u = (np.cos(angle) * dx + np.sin(angle) * dy) / np.sqrt(elongation)
        v = (np.cos(angle) * dy - np.sin(angle) * dx) * np.sqrt(elongation)
        value = profile(np.sqrt(u * u + v * v), radius)
        scene = np.repeat(np.arange(self.n), counts)[:, None, None]
        inside = (column >= 0) & (column < self.s) & (row >= 0) & (row < self.s)
        flat = ((scene * self.s + row) * self.s + column)[inside]
        plane = np.bincount(flat, value[inside], minlength=self.n * self.s * self.s)
        return plane.reshape(shape).astype(np.float64)

    def dots(self, count: Array, radius: Array, reach_um: Array, spread: float, soft: float = 0.2) -> Array:
        """Soft dots scattered evenly within `reach_um` of the cell's centre, 0 outside to 1 inside, N×S×S."""
        counts = count.ravel().astype(int)
        u = np.concatenate([rng.random((n, 5), np.float32) for rng, n in zip(self.rngs, counts, strict=True)])
        u = u.astype(np.float64)
        reach, size, x, y = (
            np.repeat(each.ravel(), counts) for each in (reach_um, radius, self.p["x_um"], self.p["y_um"])
        )
        distance, angle = reach * np.sqrt(u[:, 0]), 2 * np.pi * u[:, 1]
        x, y = x + distance * np.cos(angle), y + distance * np.sin(angle)
        size = size * (1 + spread * (2 * u[:, 2] - 1))
        discs = np.stack([x, y, size, 1 + 0.4 * u[:, 3], np.pi * u[:, 4]], 1)
        return self.splat(counts, discs, lambda d, r: _ramp((r - d) / soft + 0.5), soft)

    # Outlines

    def cell_distance(self) -> Array:
        """Signed distance to the cell's outline (negative inside), N×S×S."""
        angle = np.pi * self.draw(1, 1)
        stretch = np.sqrt(self.p["cell_elongation"])
        u = (np.cos(angle) * self.x + np.sin(angle) * self.y) / stretch
        v = (np.cos(angle) * self.y - np.sin(angle) * self.x) * stretch
        distance = np.sqrt(u * u + v * v) - self.p["cell_diameter_um"] / 2
        return self.level(
            distance + self.p["cell_irregularity_um"] * self.noise(2.6), self.p["cell_area_um2"]
        )

    def nucleus_distance(self, cell: Array) -> Array:
        """Signed distance to the nucleus's outline, N×S×S: lobes along an arc, bridged and joined by filaments."""
        lobes = self.p["lobes"]
        base = np.sqrt(
            self.p["nucleus_area_um2"]
            / np.pi
            / (1 + 0.8 * (lobes - 1) * np.minimum(self.p["lobe_spacing"] / 2, 1))
        )
        place = np.arange(MAX_LOBES, dtype=np.float64)[None, None, :]
        present = place < lobes
        length = (place - (lobes - 1) / 2) * self.p["lobe_spacing"] * base
        curvature = self.p["bend"] / np.maximum((lobes - 1) * self.p["lobe_spacing"] * base, 1.0) + 1e-3
        across = np.sin(curvature * length) / curvature
        along = (1 - np.cos(curvature * length)) / curvature
        along = along - (along * present).sum(2, keepdims=True) / lobes
        jitter = self.draw(1, 3 * MAX_LOBES) - 0.5
        many = lobes > 1
        across = across + 0.5 * base * jitter[..., :MAX_LOBES] * many
        along = along + 0.5 * base * jitter[..., MAX_LOBES : 2 * MAX_LOBES] * many
        radius = base * (1 + 0.4 * jitter[..., 2 * MAX_LOBES :] * many)
        angle, direction = 2 * np.pi * self.draw(2, 1, 1).swapaxes(0, 1)
        room = self.p["nucleus_offset"] * (
            self.p["cell_diameter_um"] / 2 - np.sqrt(self.p["nucleus_area_um2"] / np.pi)
        )
        cx = np.cos(angle) * across - np.sin(angle) * along + room * np.cos(direction)
        cy = np.sin(angle) * across + np.cos(angle) * along + room * np.sin(direction)

        far = np.float64(1e3)
        body = np.full_like(cell, far)
        chain = np.full_like(cell, far)
        waist = base * (1 - self.p["constriction"])
        for i in range(MAX_LOBES):
            one = np.s_[..., i : i + 1]
            if not present[one].any():
                break
            px, py = self.x - cx[one], self.y - cy[one]
            lobe = np.sqrt(px * px + py * py) - radius[one]
            if i:
                before = np.s_[..., i - 1 : i]
                bx, by = cx[before] - cx[one], cy[before] - cy[one]
                t = _ramp((px * bx + py * by) / (bx * bx + by * by + 1e-6))
                link = np.sqrt((px - t * bx) ** 2 + (py - t * by) ** 2)
                chain = np.where(present[one], np.minimum(chain, link), chain)
                lobe = _smooth_minimum(lobe, link - waist, 0.3)
            body = np.where(present[one], _smooth_minimum(body, lobe, 0.3), body)
        body = body + self.p["nucleus_irregularity_um"] * self.noise(2.0)
        body = self.level(np.maximum(body, cell + 0.3), self.p["nucleus_area_um2"])
        return np.minimum(body, np.maximum(chain - 0.16, cell + 0.3))

    def level(self, distance: Array, area_um2: Array) -> Array:
        """Shift a distance such that it is negative on `area_um2` (each of N) of the field."""
        points = (area_um2.ravel() / self.step**2).astype(int)
        flat = distance.reshape(self.n, -1)
        height = np.array([np.partition(row, k)[k] for row, k in zip(flat, points, strict=True)], np.float64)
        return distance - height[:, None, None]

    # What lies around the cell

    def red_cells(self) -> Array:
        """Thickness of the red cells, 1 at a rim's top, N×S×S: on a jittered hexagonal lattice, pushed off the cell."""
        lattice = _hexagons(7.9)
        u = self.draw(len(lattice), 8)
        turn = 2 * np.pi * self.draw(1)
        shift = 8 * self.draw(2)[:, None, :]
        centre = lattice[None] + shift + 2.4 * (u[..., :2] - 0.5)
        cos, sin = np.cos(turn), np.sin(turn)
        x = cos * centre[..., 0] - sin * centre[..., 1] - self.p["x_um"][..., 0]
        y = sin * centre[..., 0] + cos * centre[..., 1] - self.p["y_um"][..., 0]
        radius = self.p["red_cell_diameter_um"][..., 0] / 2 * (1 + 0.16 * (u[..., 2] - 0.5))
        distance = np.sqrt(x * x + y * y) + 1e-3
        clear = self.p["cell_diameter_um"][..., 0] / 2 + radius - 0.5 * u[..., 3]
        push = np.maximum(distance, clear) / distance
        x, y = x * push + self.p["x_um"][..., 0], y * push + self.p["y_um"][..., 0]
        # One that would be pushed far would land on its neighbours.
        seen = (u[..., 4] < self.p["red_cell_density"][..., 0]) & (push * distance - distance < 2.5)
        seen &= (np.abs(x) < FIELD_UM / 2 + radius) & (np.abs(y) < FIELD_UM / 2 + radius)
        discs = np.stack([x, y, radius, 1 + 0.25 * u[..., 5] ** 2, np.pi * u[..., 6]], -1)[seen]
        counts = seen.sum(1)
        pallor = np.repeat(self.p["red_cell_pallor"].ravel(), counts) * (0.6 + 0.4 * u[..., 7][seen])
        return self.splat(counts, discs, lambda d, r: _biconcave(d, r, pallor[:, None, None]), 0.2)

    def platelets(self) -> Array:
        """Density of platelets, 0 to 1, N×S×S."""
        means = self.p["platelets"].ravel()
        counts = np.array([rng.poisson(mean) for rng, mean in zip(self.rngs, means, strict=True)])
        u = np.concatenate([rng.random((n, 5), np.float32) for rng, n in zip(self.rngs, counts, strict=True)])
        u = u.astype(np.float64)
        place = FIELD_UM * (u[:, :2] - 0.5)
        discs = np.column_stack([place, 0.7 + 0.7 * u[:, 2], 1 + 0.6 * u[:, 3], np.pi * u[:, 4]])
        return self.splat(counts, discs, lambda d, r: _ramp((r - d) / 0.7 + 0.3), 0.7)

    # The picture

    def develop(self) -> tuple[Array, Array]:
        """Images uint8 N×R×R×3 and masks uint8 N×R×R."""
        p = self.p
        cell_d = self.cell_distance()
        nucleus_d = self.nucleus_distance(cell_d)
        cell = _ramp(0.5 - cell_d / p["cell_edge_um"])
        nucleus = _ramp(0.5 - nucleus_d / 0.25)
        body_radius = p["cell_diameter_um"] / 2
        nucleus_radius = np.sqrt(p["nucleus_area_um2"] / np.pi)

        # Cytoplasm: deeper at the edge, paler beside the nucleus, rough as ground glass, holes at vacuoles.
        vacuole = np.minimum(self.dots(p["vacuoles"], p["vacuole_radius_um"], 0.9 * body_radius, 0.5), 1)
        cytoplasm = cell * (1 - nucleus) * (1 - 0.85 * vacuole)
        texture = np.maximum(1 + p["frost"] * self.noise(0.5) + 0.1 * self.noise(1.5), 0)
        rim = 1 + 0.5 * np.exp(-((cell_d / 0.6) ** 2))
        halo = 1 - p["halo"] * np.exp(-((nucleus_d / 0.9) ** 2))
        blue = cytoplasm * p["basophilia"] * texture * rim * halo
        eosin = cytoplasm * p["acidophilia"] * texture

        # Nucleus: clumps and grains, a dark membrane, pale nucleoli.
        share = p["chromatin_coarseness"]
        grains = share * self.noise(0.8) + (1 - share) * self.noise(0.4)
        grains = np.tanh(1.6 * grains / np.sqrt(share**2 + (1 - share) ** 2))
        membrane = 0.25 * np.exp(-(((nucleus_d + 0.2) / 0.25) ** 2))
        nucleolus = np.minimum(
            self.dots(p["nucleoli"], p["nucleolus_radius_um"], 0.7 * nucleus_radius, 0.25, 0.4), 1
        )
        missing = (1 - p["nucleolus_contrast"] * nucleolus) * (1 - 0.5 * vacuole)
        azure = (
            nucleus
            * p["chromatin_od"]
            * (1 + p["chromatin_clumping"] * grains * (1 - nucleolus) + membrane)
            * missing
        )
        blue += nucleus * (0.04 + 0.15 * nucleolus * p["nucleolus_contrast"])

        # Granules and Auer rods.
        granule = np.minimum(self.dots(p["granules"], p["granule_radius_um"], 1.02 * body_radius, 0.3), 1.4)
        granule *= cell * (1 - (1 - p["granule_cover"]) * nucleus)
        rod = self.auer_rod(body_radius) * cell * (1 - 0.6 * nucleus) * p["auer_rods"]
        eosin += p["granule_eosin"] * granule + 0.3 * rod
        azure += p["granule_azure"] * granule + 0.5 * rod

        platelet = self.platelets() * (1 - cell)
        azure += platelet * (0.28 + 0.12 * np.tanh(self.noise(0.5)))
        blue += 0.05 * platelet
        red_cell = np.minimum(self.red_cells(), 1.7) * (1 - 0.9 * cell) * (1 + 0.04 * self.noise(1.0))

        density = np.stack([eosin, azure, blue, 0.15 * red_cell], -1)
        return self.photograph(density), self.mask(cell_d, nucleus_d)

    def auer_rod(self, body_radius: Array) -> Array:
        """A needle of 2.5 to 5 µm in the outer half of the cell, 0 to 1, N×S×S."""
        u = self.draw(4, 1, 1).swapaxes(0, 1)
        angle, tilt = 2 * np.pi * u[0], 2 * np.pi * u[0] + np.pi / 2 + (u[1] - 0.5)
        x = self.x - 0.72 * body_radius * np.cos(angle)
        y = self.y - 0.72 * body_radius * np.sin(angle)
        along = np.abs(x * np.cos(tilt) + y * np.sin(tilt)) - (1.25 + 1.25 * u[2])
        across = y * np.cos(tilt) - x * np.sin(tilt)
        return _ramp(0.5 - (np.sqrt(np.maximum(along, 0) ** 2 + across**2) - 0.22) / 0.2)

    def photograph(self, density: Array) -> Array:
        """Light through dye densities N×S×S×4, seen through lens and camera: uint8 N×R×R×3."""
        p = {name: value[:, 0, 0] for name, value in self.p.items()}
        gain = np.stack([p[f"{dye}_gain"] for dye in ("eosin", "azure", "blue", "haemoglobin")], 1)
        channel = np.stack([p["red_gain"], p["green_gain"], p["blue_channel_gain"]], 1)
        dyes = DYES * gain[:, :, None] * channel[:, None, :]
        optical = density.reshape(self.n, -1, 4) @ dyes
        light = np.stack([p["light_red"], p["light_green"], p["light_blue"]], 1)
        picture = light[:, None, :] * np.exp(-np.log(10) * optical)
        picture = picture.reshape(self.n, self.s, self.s, 3).transpose(0, 3, 1, 2)
        lens = self.camera(self.p["focus_um"])
        picture = lens[:, None] @ picture @ lens[:, None].transpose(0, 1, 3, 2)
        angle = 2 * np.pi * self.draw(1, 1, 1)
        axis = self.camera(None) @ self.axis / (FIELD_UM / 2)
        gradient = 1 + self.p["light_gradient"][..., None] / 2 * (
            np.cos(angle) * axis[None, None, None, :] + np.sin(angle) * axis[None, None, :, None] - 1
        )
        sampling = self.camera(None)
        grain = (sampling @ self.noise(FIELD_UM / _FINEST) @ sampling.T)[:, None]
        picture = picture * gradient + self.p["grain"][:, None] * grain
        return np.rint(picture.clip(0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)

    def camera(self, blur_um: Array | None) -> Array:
        """Matrix that averages grid points within a pixel, R×S, after a Gaussian blur of `blur_um`, N×R×S."""
        pixel = np.repeat(np.eye(self.resolution, dtype=np.float64), self.s // self.resolution, axis=1)
        pixel *= self.resolution / self.s
        if blur_um is None:
            return pixel
        gauss = np.exp(-(((self.axis[:, None] - self.axis) / blur_um) ** 2) / 2)
        return pixel @ (gauss / gauss.sum(2, keepdims=True))

    def mask(self, cell: Array, nucleus: Array) -> Array:
        """Grey levels by which region holds at least half of a pixel, uint8 N×R×R."""
        sampling = self.camera(None)
        cell, nucleus = (sampling @ (d < 0).astype(np.float64) @ sampling.T >= 0.5 for d in (cell, nucleus))
        return np.where(nucleus, NUCLEUS, np.where(cell, CYTOPLASM, 0)).astype(np.uint8)


def _ramp(value: Array) -> Array:
    """Clip to [0, 1]."""
    return np.clip(value, 0, 1)


def _smooth_minimum(a: Array, b: Array, width: float) -> Array:
    """Minimum of two distances with the corner rounded over `width` (quadratic)."""
    h = np.maximum(width - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h / (4 * width)


def _biconcave(distance: Array, radius: Array, pallor: Array) -> Array:
    """Thickness of a red cell, 1 at most: Evans and Fung (1972), filled up in the middle where pallor is below 1."""
    rho = np.minimum(distance / radius, 1)
    thickness = np.sqrt(1 - rho**2) * (0.207 + 2.003 * rho**2 - 1.123 * rho**4) / 0.656
    flat = np.maximum(thickness, rho < 0.72)
    return pallor * thickness + (1 - pallor) * flat


@lru_cache(maxsize=64)
def _spline(points: int, spacing_um: float) -> Array:
    """Cubic B-splines `spacing_um` apart, seen at `points` evenly spaced points across the field: points×knots."""
    t = (np.arange(points) + 0.5) * FIELD_UM / points / spacing_um
    knots = np.arange(-1, int(np.ceil(FIELD_UM / spacing_um)) + 2)
    d = np.abs(t[:, None] - knots)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.maximum(2 - d, 0) ** 3 / 6).astype(np.float64)


@lru_cache(maxsize=1)
def _hexagons(spacing_um: float) -> Array:
    """Centres of a hexagonal lattice that covers the field in every turn and shift, K×2."""
    i, j = np.meshgrid(np.arange(-5, 6), np.arange(-5, 6))
    return spacing_um * np.stack([i + 0.5 * (j % 2), np.sqrt(0.75) * j], -1).reshape(-1, 2).astype(np.float64)
