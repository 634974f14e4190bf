"""Draw nbs/images/overview.svg, the picture of the first page, from a run on a simulated set.

    cryoformer simulate set --preset arm && cryoformer train set/particles.star --out run --minutes 5
    python tools/overview.py run set/particles.star

Everything in it is data: particle images, latents, decoded maps and what moves. Needs scipy and scikit-image only to shade the surfaces.
"""

import base64
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from cryoformer_nb import Run, load_particles
from cryoformer_nb.analysis.latent import motion_path, pca
from cryoformer_nb.show.scene import surface_level

ROOT = Path(__file__).resolve().parents[1]
INK, GREY, BLUE, LINE = "#10243a", "#5b6875", "#00619c", "#c9d3dc"


def png(pixels: np.ndarray) -> str:
    "A data address of grey (y, x), or colour and opacity (y, x, 4), bytes."
    pixels = np.ascontiguousarray(pixels.astype(np.uint8))
    height, width = pixels.shape[:2]
    chunk = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    )
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(
            b"IHDR",
            struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 6, 0, 0, 0),
        )
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def colours(value: np.ndarray, stops: list) -> np.ndarray:
    "Colours (..., 3) of values from 0 to 1 along a list of hexadecimal stops."
    table = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in stops], float)
    place = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(np.clip(value, 0, 1), place, table[:, k]) for k in range(3)], -1)


def shaded(
    volume: np.ndarray, colour: np.ndarray | None, level: float, size: int = 140
) -> np.ndarray:
    "A surface seen along y, z upwards, lit from above: (size, size, 4). The colour is a map (D, D, D) from 0 to 1, or None."
    volume, colour = (None if m is None else m.transpose(0, 2, 1) for m in (volume, colour))
    v = zoom(volume, size / len(volume), order=1)
    v = gaussian_filter(v, 1.0)
    hit = v > level
    first = hit.argmax(2)  # along the last axis
    seen = hit.any(2)
    z, y = np.mgrid[:size, :size]
    before = np.clip(first - 1, 0, size - 1)
    a, b = v[z, y, before], v[z, y, first]
    depth = before + np.clip((level - a) / np.maximum(b - a, 1e-9), 0, 1)
    normal = -np.stack(
        [map_coordinates(g, [z, y, depth], order=1) for g in np.gradient(v)], -1
    )  # z, y, x
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    light = np.array([0.62, -0.35, -0.7])
    light /= np.linalg.norm(light)
    shade = 0.42 + 0.62 * np.clip(normal @ light, 0, 1)
    base = np.broadcast_to(colours(np.array(0.0), ["#6db3e0", "#6db3e0"]), (size, size, 3))
    if colour is not None:
        base = colours(
            map_coordinates(zoom(colour, size / len(colour), order=1), [z, y, depth], order=1),
            ["#79b6de", "#f3e2a0", "#d55e00"],
        )
    alpha = np.clip(gaussian_filter(seen.astype(float), 0.7) * 1.15, 0, 1)
    return np.dstack([np.clip(base * shade[..., None] * 1.05, 0, 255), 255 * alpha])[::-1]


def text(x, y, words, size=15, colour=INK, weight=400, anchor="middle", style="") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}" {style}>{words}</text>'


def picture(run, particles, labels: np.ndarray) -> str:
    parts = [
        f'<rect x="1" y="1" width="1198" height="478" rx="14" fill="#ffffff" stroke="{LINE}"/>'
    ]
    heads = [
        (140, "Particle images", "star, cs, pkl + mrcs", "20–24"),
        (425, "A latent for each", "an encoder reads every image", "31, 52"),
        (740, "A map for every latent", "an implicit volume, deformed by a transformer", "30–33"),
        (1075, "What moves", "the change over all particles", "50"),
    ]
    for x, title, caption, numbers in heads:
        parts += [
            text(x, 48, title, 22, INK, 650),
            text(x, 72, caption, 14, GREY),
            text(
                x,
                400,
                f"notebooks {numbers}"
                if "–" in numbers or "," in numbers
                else f"notebook {numbers}",
                13,
                BLUE,
                600,
            ),
        ]
    for k, image in enumerate(particles.images(slice(0, 9)).numpy()):
        low, high = np.percentile(image, (1, 99))
        parts.append(
            f'<image x="{35 + 71 * (k % 3)}" y="{105 + 88 * (k // 3)}" width="66" height="66" href="{png(255 * np.clip((image - low) / (high - low), 0, 1))}" preserveAspectRatio="none"/>'
        )
        angle = np.degrees(np.arctan2(*particles.rotations[k][1, :2].numpy()))
        parts.append(
            f'<g transform="translate({35 + 71 * (k % 3) + 33},{105 + 88 * (k // 3) + 76}) rotate({angle:.0f})"><path d="M-9 0H9M5 -4L9 0L5 4" stroke="{GREY}" fill="none" stroke-width="1.3"/></g>'
        )
    path = motion_path(run.latents, 5)
    axes, xy, _ = pca(run.latents)
    marks = (path - run.latents.mean(0)) @ axes[:2].T
    low, high = np.percentile(xy[:, :2], (0.5, 99.5), axis=0)
    place = lambda p: (
        420 + 228 * (p[0] - (low + high)[0] / 2) / (high - low).max(),
        235 - 240 * (p[1] - (low + high)[1] / 2) / (high - low).max(),
    )
    shades = colours(labels / labels.max(), ["#440154", "#3b528b", "#21918c", "#5ec962", "#d8c820"])
    for k in np.random.default_rng(0).permutation(len(xy))[:900]:
        x, y = place(xy[k])
        r, g, b = shades[k].astype(int)
        if abs(x - 425) < 128 and 90 < y < 380:
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="rgb({r},{g},{b})" opacity=".75"/>'
            )
    points = [place(m) for m in marks]
    parts.append(
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{INK}" stroke-width="1.8"/>'
    )
    for n, (x, y) in enumerate(points):
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="{INK}"/>',
            text(f"{x:.1f}", f"{y + 4:.1f}", n + 1, 12, "#fff", 600),
        ]
    volumes = run.volumes(path)
    edge = (
        len(volumes[0]) // 2
        - int(
            np.abs(
                np.argwhere(volumes.max(0) > surface_level(volumes[0])) - len(volumes[0]) // 2
            ).max()
        )
        - 2
    )
    crop = lambda m: (
        m[..., edge : len(m) - edge, edge : len(m) - edge][edge : len(m) - edge] if edge > 0 else m
    )
    level = 0.8 * float(np.median([surface_level(v) for v in volumes]))
    for n, k in enumerate((0, 2, 4)):
        x = 576 + 117 * n
        parts += [
            f'<image x="{x - 36}" y="145" width="168" height="168" href="{png(shaded(crop(volumes[k]), None, level))}"/>',
            f'<circle cx="{x + 48}" cy="350" r="10" fill="{INK}"/>',
            text(x + 48, 354, k + 1, 12, "#fff", 600),
        ]
    every = run.volumes(run.latents[:: max(1, len(run.latents) // 60)])
    spread = gaussian_filter(every.std(0), 1.0)
    parts.append(
        f'<image x="975" y="125" width="205" height="205" href="{png(shaded(crop(every.mean(0)), crop(np.clip(spread / np.percentile(spread[every.mean(0) > level], 97), 0, 1)), 0.6 * level))}"/>'
    )
    arrow = lambda x, y: (
        f'<path d="M{x - 17} {y}H{x + 13}M{x + 4} {y - 9}L{x + 14} {y}L{x + 4} {y + 9}" stroke="{BLUE}" stroke-width="3" fill="none" stroke-linecap="round"/>'
    )
    parts += [arrow(277, 250), arrow(566, 250), arrow(954, 250)]
    parts += [
        f'<path d="M740 415V436Q740 448 728 448H152Q140 448 140 436V418M131 428L140 416L149 428" stroke="{BLUE}" stroke-width="2.4" fill="none" stroke-linecap="round"/>',
        '<rect x="200" y="428" width="480" height="44" fill="#fff"/>',
        text(
            440,
            446,
            "project, apply the CTF, compare with the image: that is the loss",
            15,
            INK,
            600,
        ),
        text(440, 466, "notebooks 10–13, 40, 41", 13, BLUE, 600),
        text(1075, 446, "explore it in JupyterLab: 60–68", 14, INK, 600),
        text(1075, 466, "or from the command line: 70", 13, GREY),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1200 480" font-family="Segoe UI, Helvetica, Arial, sans-serif" role="img" aria-label="Particle images, a latent for each, a map for every latent, and what moves">\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run, star = Run.load(sys.argv[1]), Path(sys.argv[2])
    out = ROOT / "nbs" / "images" / "overview.svg"
    out.write_text(
        picture(
            run, load_particles(star, box=run.box), np.load(star.parent / "truth" / "labels.npy")
        ),
        encoding="utf-8",
    )
    print(f"{out.relative_to(ROOT)}: {out.stat().st_size / 1e3:.0f} kB")
