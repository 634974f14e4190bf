"""Draw nbs/images/overview.svg, the picture of the first page, from a run on a simulated set.

    cryoformer simulate set --preset arm
    cryoformer train set/particles.star --out run --minutes 5
    python tools/overview.py run set/particles.star

Everything in it is data: particle images, latents, decoded maps and what moves. The surfaces are
shaded here, with scipy.
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


def chunk(kind: bytes, data: bytes) -> bytes:
    "One chunk of a PNG file."
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(pixels: np.ndarray) -> str:
    "A data address of grey (y, x), or colour and opacity (y, x, 4), bytes."
    pixels = np.ascontiguousarray(pixels.astype(np.uint8))
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 6
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    data = b"\x89PNG\r\n\x1a\n"
    data += chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def colours(value: np.ndarray, stops: list) -> np.ndarray:
    "Colours (..., 3) of values from 0 to 1 along a list of hexadecimal stops."
    table = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in stops], float)
    place = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(np.clip(value, 0, 1), place, table[:, k]) for k in range(3)], -1)


def shaded(
    volume: np.ndarray, colour: np.ndarray | None, level: float, size: int = 140
) -> np.ndarray:
    """A surface seen along y, z upwards, lit from above: (size, size, 4).

    The colour is a map (D, D, D) from 0 to 1, or None."""
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
    slopes = [map_coordinates(g, [z, y, depth], order=1) for g in np.gradient(v)]
    normal = -np.stack(slopes, -1)  # z, y, x
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    light = np.array([0.62, -0.35, -0.7])
    light /= np.linalg.norm(light)
    shade = 0.42 + 0.62 * np.clip(normal @ light, 0, 1)
    base = np.broadcast_to(colours(np.array(0.0), ["#6db3e0", "#6db3e0"]), (size, size, 3))
    if colour is not None:
        fine = zoom(colour, size / len(colour), order=1)
        value = map_coordinates(fine, [z, y, depth], order=1)
        base = colours(value, ["#79b6de", "#f3e2a0", "#d55e00"])
    alpha = np.clip(gaussian_filter(seen.astype(float), 0.7) * 1.15, 0, 1)
    return np.dstack([np.clip(base * shade[..., None] * 1.05, 0, 255), 255 * alpha])[::-1]


# ---------------------------------------------------------------- pieces of the drawing


def tag(name: str, words: str = "", **attributes) -> str:
    "An element of the drawing; underscores in names of attributes become hyphens."
    pairs = [f'{key.replace("_", "-")}="{value}"' for key, value in attributes.items()]
    return f"<{name} {' '.join(pairs)}>{words}</{name}>"


def text(x, y, words, size=15, colour=INK, weight=400) -> str:
    style = dict(font_size=size, fill=colour, font_weight=weight, text_anchor="middle")
    return tag("text", words, x=x, y=y, **style)


def line(d: str, colour: str, width: float, **more) -> str:
    return tag("path", d=d, stroke=colour, stroke_width=width, fill="none", **more)


def image(x, y, size, pixels: np.ndarray, **more) -> str:
    return tag("image", x=x, y=y, width=size, height=size, href=png(pixels), **more)


def arrow(x, y) -> str:
    d = f"M{x - 17} {y}H{x + 13}M{x + 4} {y - 9}L{x + 14} {y}L{x + 4} {y + 9}"
    return line(d, BLUE, 3, stroke_linecap="round")


def numbered(x, y, number: int) -> list:
    "A place on the way through latent space."
    disc = tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=10, fill=INK)
    return [disc, text(f"{x:.1f}", f"{y + 4:.1f}", number, 12, "#fff", 600)]


#: Middle, title, what it is, and the folder of its notebooks.
HEADS = [
    (140, "Particle images", "star, cs, pkl + mrcs", "particles"),
    (425, "A latent for each", "an encoder reads every image", "model/02_encoders, analysis"),
    (740, "A map for every latent", "an implicit volume, deformed by a transformer", "model"),
    (1075, "What moves", "the change over all particles", "analysis"),
]
STATES = ["#440154", "#3b528b", "#21918c", "#5ec962", "#d8c820"]


def frame() -> list:
    "Everything that is no data."
    parts = [tag("rect", x=1, y=1, width=1198, height=478, rx=14, fill="#ffffff", stroke=LINE)]
    for x, title, caption, folder in HEADS:
        parts.append(text(x, 48, title, 22, INK, 650))
        parts.append(text(x, 72, caption, 14, GREY))
        parts.append(text(x, 400, folder, 13, BLUE, 600))
    parts += [arrow(277, 250), arrow(566, 250), arrow(954, 250)]
    back = "M740 415V436Q740 448 728 448H152Q140 448 140 436V418M131 428L140 416L149 428"
    parts.append(line(back, BLUE, 2.4, stroke_linecap="round"))
    parts.append(tag("rect", x=200, y=428, width=480, height=44, fill="#fff"))
    words = "project, apply the CTF, compare: the loss"
    parts.append(text(440, 446, words, 15, INK, 600))
    parts.append(text(440, 466, "imaging, training", 13, BLUE, 600))
    parts.append(text(1075, 446, "in JupyterLab: show", 14, INK, 600))
    parts.append(text(1075, 466, "in a terminal: command", 13, GREY))
    return parts


def nine_images(particles) -> list:
    "Images, each with an arrow for its orientation in the plane."
    parts = []
    for k, pixels in enumerate(particles.images(slice(0, 9)).numpy()):
        x, y = 35 + 71 * (k % 3), 105 + 88 * (k // 3)
        low, high = np.percentile(pixels, (1, 99))
        grey = 255 * np.clip((pixels - low) / (high - low), 0, 1)
        parts.append(image(x, y, 66, grey, preserveAspectRatio="none"))
        angle = np.degrees(np.arctan2(*particles.rotations[k][1, :2].numpy()))
        place = f"translate({x + 33},{y + 76}) rotate({angle:.0f})"
        parts.append(tag("g", line("M-9 0H9M5 -4L9 0L5 4", GREY, 1.3), transform=place))
    return parts


def latent_space(run, labels: np.ndarray, path: np.ndarray) -> list:
    "Latents in the plane of the largest spread, and the numbered places of a path."
    axes, xy, _ = pca(run.latents)
    low, high = np.percentile(xy[:, :2], (0.5, 99.5), axis=0)
    middle, width = (low + high) / 2, (high - low).max()

    def place(p):
        return 420 + 228 * (p[0] - middle[0]) / width, 235 - 240 * (p[1] - middle[1]) / width

    parts, shades = [], colours(labels / labels.max(), STATES)
    for k in np.random.default_rng(0).permutation(len(xy))[:900]:
        x, y = place(xy[k])
        if abs(x - 425) < 128 and 90 < y < 380:
            fill = f"rgb({','.join(str(c) for c in shades[k].astype(int))})"
            parts.append(
                tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.6, fill=fill, opacity=0.75)
            )
    points = [place(m) for m in (path - run.latents.mean(0)) @ axes[:2].T]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(tag("polyline", points=corners, fill="none", stroke=INK, stroke_width=1.8))
    for n, (x, y) in enumerate(points):
        parts += numbered(x, y, n + 1)
    return parts


def margin(volumes: np.ndarray) -> int:
    "Voxels at every side in which there is nothing to see."
    half = volumes.shape[-1] // 2
    inside = np.argwhere(volumes.max(0) > surface_level(volumes[0]))
    return max(0, half - int(np.abs(inside - half).max()) - 2)


def maps(run, path: np.ndarray) -> list:
    "Three maps on the path, and the average coloured by what moves."
    volumes = run.volumes(path)
    edge, box = margin(volumes), volumes.shape[-1]

    def crop(m):
        inner = slice(edge, box - edge)
        return m[inner, inner, inner]

    parts, level = [], 0.8 * float(np.median([surface_level(v) for v in volumes]))
    for n, k in enumerate((0, 2, 4)):
        x = 576 + 117 * n
        parts.append(image(x - 36, 145, 168, shaded(crop(volumes[k]), None, level)))
        parts += numbered(x + 48, 350, k + 1)
    every = run.volumes(run.latents[:: max(1, len(run.latents) // 60)])
    mean, spread = every.mean(0), gaussian_filter(every.std(0), 1.0)
    moving = np.clip(spread / np.percentile(spread[mean > level], 97), 0, 1)
    parts.append(image(975, 125, 205, shaded(crop(mean), crop(moving), 0.6 * level)))
    return parts


def picture(run, particles, labels: np.ndarray) -> str:
    "The whole drawing."
    path = motion_path(run.latents, 5)
    parts = frame() + nine_images(particles) + latent_space(run, labels, path) + maps(run, path)
    what = "Particle images, a latent for each, a map for every latent, and what moves"
    return tag(
        "svg",
        "\n" + "\n".join(parts) + "\n",
        xmlns="http://www.w3.org/2000/svg",
        viewBox="0 0 1200 480",
        font_family="Segoe UI, Helvetica, Arial, sans-serif",
        role="img",
        aria_label=what,
    )


#: Parts of the drawing, left, top, width and height, and where they stand on a phone.
WINDOWS = [
    ((20, 20, 238, 390), (10, 5, 274, 448)),
    ((299, 20, 249, 390), (303, 5, 287, 448)),
    ((545, 20, 390, 390), (5, 455, 375, 375)),
    ((972, 20, 222, 390), (383, 460, 212, 373)),
]


def for_a_phone(drawing: str) -> str:
    "The same four parts in two rows, twice as large on a narrow screen."
    start, end = drawing.index(">") + 1, drawing.rindex("</svg>")
    parts = [tag("defs", tag("g", drawing[start:end], id="all"))]
    parts.append(tag("rect", width=600, height=850, rx=14, fill="#ffffff", stroke=LINE))
    for seen, (x, y, width, height) in WINDOWS:
        box = dict(x=x, y=y, width=width, height=height, viewBox=" ".join(map(str, seen)))
        parts.append(tag("svg", tag("use", href="#all"), **box))
    head = drawing[:start].replace('viewBox="0 0 1200 480"', 'viewBox="0 0 600 850"')
    return head + "\n" + "\n".join(parts) + "\n</svg>"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run, star = Run.load(sys.argv[1]), Path(sys.argv[2])
    out = ROOT / "nbs" / "images" / "overview.svg"
    particles = load_particles(star, box=run.box)
    labels = np.load(star.parent / "truth" / "labels.npy")
    drawing = picture(run, particles, labels)
    for path, svg in ((out, drawing), (out.with_stem("overview_phone"), for_a_phone(drawing))):
        path.write_text(svg + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")
