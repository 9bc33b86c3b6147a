"""The pictures of the benchmarks in the selector.

`python -m pirf_app.ui.drawing.thumbnails` draws them again, one field from the solver each, into `assets/pde/NAME.png`;
they are kept as files because some solvers take long. A benchmark without a picture is offered by name alone.
"""

import base64
import io
from functools import lru_cache
from zlib import crc32

import numpy as np
from scipy.ndimage import zoom

from ...common.paths import ASSETS
from ...pdes import PDE, get_pde, pde_names
from .panels import DIVERGING, SEQUENTIAL, field_range, picture

FOLDER = ASSETS / "pde"
PIXELS = 160
RESOLUTION = 64
LEVELS = 64  # shades in a picture; fewer make a smaller file


def draw(pde: PDE, seed: int | None = None) -> bytes:
    """The last channel (the solution, or the last frame) of one solver field, in the figure's colours: a PNG.
    Without a seed each benchmark has its own: Poisson and Helmholtz look alike for the same source."""
    seed = crc32(pde.name.encode()) if seed is None else seed
    channel, field = pde.channels[-1], pde.generate(1, RESOLUTION, seed)[0, -1].numpy()
    smooth = zoom(field, PIXELS / RESOLUTION, order=3, mode="nearest").astype(np.float32)
    colours = SEQUENTIAL if channel.positive else DIVERGING
    out = io.BytesIO()
    image = picture(smooth, colours, *field_range(channel.positive, [field]))
    step = 256 // LEVELS
    image.point(lambda index: index // step * step + step // 2).save(out, "PNG", optimize=True)
    return out.getvalue()


@lru_cache(maxsize=1)
def css() -> str:
    """Rules that put the pictures before the options of the selector, as data: no address that a proxy could break."""
    rules = []
    for name in pde_names():
        path = FOLDER / f"{name}.png"
        if path.exists():
            url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            option = f'#pde label[data-testid="{get_pde(name).title}-radio-label"]'
            rules.append(f"{option}::before {{ content: ''; background-image: url({url}) }}")
    return "\n".join(rules)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for pde_name in pde_names():
        size = (FOLDER / f"{pde_name}.png").write_bytes(draw(get_pde(pde_name)))
        print(f"{pde_name}: {size} bytes")
