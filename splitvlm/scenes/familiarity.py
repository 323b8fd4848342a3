"""Measures how far a picture is from the drawn pictures that the embedded model was trained on.

A picture is described by 63 numbers of its 64 x 64 pixels: means and spreads of brightness and two colour differences,
how strong its edges are at three scales, and the colours of a grid of 4 x 4. `distance` is the least squared Mahalanobis
distance to the drawn pictures of a domain. Drawn pictures, also resized or coded as JPEG, stay below `limit`; most
photographs lie beyond it.

    python -m splitvlm.scenes.familiarity      learns files/familiarity.npz anew and prints the distances of drawn pictures
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from splitvlm.scenes import MODEL_DIR, TRAINED_DOMAINS, draw

FILE = MODEL_DIR / "familiarity.npz"
EDGE_PX, GRID = 64, 4
SCALES_PX = (64, 32, 16)
DRAWN_A_DOMAIN = 1500
FIRST_SEED, FIRST_HELD_OUT_SEED = 1_000_000_000, 1_100_000_000

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class Familiarity:
    """Describes the drawn pictures of each domain, against which a picture is held."""

    means: Array  # (domain, feature)
    precisions: Array  # (domain, feature, feature): inverse covariances
    limit: float  # the distance of the furthest drawn picture that was held out

    def distance(self, picture: Image.Image) -> float:
        """Returns the squared distance, in units of the drawn pictures' own spread, to the nearest domain."""
        offsets = features(picture) - self.means
        return float(np.einsum("df,dfg,dg->d", offsets, self.precisions, offsets).min())


def warning(picture: Image.Image) -> str:
    """Returns what to tell about a picture unlike all that the embedded model knows; empty for a familiar one."""
    known = learned()
    distance = known.distance(picture)
    if distance <= known.limit:
        return ""
    return (
        "The embedded model knows drawn microscopy, aerial and road scenes only. This picture is unlike them "
        f"(distance {distance:.0f}; drawn ones stay below {known.limit:.0f}): its answers mean little here."
    )


@cache
def learned() -> Familiarity:
    """Returns what was learned about drawn pictures; it comes with the package."""
    with np.load(FILE, allow_pickle=False) as content:
        return Familiarity(
            content["means"].astype(np.float64), content["precisions"].astype(np.float64), float(content["limit"])
        )


def features(picture: Image.Image) -> Array:
    """Returns the numbers that describe a picture of any size."""
    small = picture.convert("RGB").resize((EDGE_PX, EDGE_PX), Image.Resampling.BOX)
    red, green, blue = np.moveaxis(np.asarray(small, np.float64) / 255, 2, 0)
    planes = np.stack([(red + green + blue) / 3, red - green, blue - green], axis=2)
    edges = [number for scale_px in SCALES_PX for number in _edge_strengths(_shrunk(planes[..., :1], scale_px)[..., 0])]
    spreads = np.log(planes.std((0, 1)) + 0.01)
    return np.concatenate([planes.mean((0, 1)), spreads, edges, _shrunk(planes, GRID).ravel()])


def _shrunk(planes: Array, edge_px: int) -> Array:
    step = EDGE_PX // edge_px
    means: Array = planes.reshape(edge_px, step, edge_px, step, -1).mean((1, 3))
    return means


def _edge_strengths(brightness: Array) -> list[float]:
    """Logarithms of the mean, the median and the 95th percentile of the gradient's length."""
    lengths = np.hypot(np.diff(brightness, axis=0)[:, :-1], np.diff(brightness, axis=1)[:-1])
    return [float(np.log(value + 0.003)) for value in (lengths.mean(), np.median(lengths), np.quantile(lengths, 0.95))]


def _jpeg(picture: Image.Image) -> Image.Image:
    store = io.BytesIO()
    picture.save(store, "JPEG", quality=50)
    return Image.open(store).convert("RGB")


FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as drawn": lambda picture: picture,
    "JPEG": _jpeg,
    "enlarged": lambda picture: picture.resize((512, 512), Image.Resampling.BICUBIC),
    "shrunk": lambda picture: picture.resize((72, 72)),
}
"""What becomes of drawn pictures on their way; none of it may make them unfamiliar."""


def held_out_distances(known: Familiarity, number: int) -> dict[str, Array]:
    """Distances of `number` drawn pictures of each domain that nothing was learned from, in each form."""
    pictures = [draw(domain, FIRST_HELD_OUT_SEED + seed).image for domain in TRAINED_DOMAINS for seed in range(number)]
    return {name: np.array([known.distance(form(picture)) for picture in pictures]) for name, form in FORMS.items()}


def learn(number: int = DRAWN_A_DOMAIN) -> Familiarity:
    """Learns means and inverse covariances of `number` drawn pictures of each domain, and the limit by half as many others."""
    means, precisions = zip(*_spreads(number), strict=True)
    unlimited = Familiarity(np.stack(means), np.stack(precisions), np.inf)
    furthest = max(float(distances.max()) for distances in held_out_distances(unlimited, number // 2).values())
    return Familiarity(unlimited.means, unlimited.precisions, furthest)


def _spreads(number: int) -> Iterator[tuple[Array, Array]]:
    for domain in TRAINED_DOMAINS:
        seen = np.stack([features(draw(domain, FIRST_SEED + seed).image) for seed in range(number)])
        ridge = np.diag(
            0.05 * seen.var(0) + 1e-4
        )  # so that what drawn pictures share exactly is not held against others
        yield seen.mean(0), np.linalg.inv(np.cov(seen.T) + ridge)


def main() -> None:
    """Learns the description of drawn pictures anew, prints held-out distances, and writes the file."""
    known = learn()
    for name, distances in held_out_distances(known, DRAWN_A_DOMAIN // 2).items():
        median, high, furthest = np.quantile(distances, (0.5, 0.99, 1))
        print(f"{name}: median {median:.0f}, 99 % {high:.0f}, furthest {furthest:.0f}")
    print(f"limit {known.limit:.0f}")
    np.savez_compressed(
        FILE, means=known.means.astype(np.float32), precisions=known.precisions.astype(np.float32), limit=known.limit
    )


if __name__ == "__main__":
    main()
