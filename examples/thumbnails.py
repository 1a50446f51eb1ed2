"""Make thumbnails of images on processes, a damaged file among them.

Decoding and resizing compute, so they run in worker processes, one for each of two cores. A worker reads and writes the
files itself: only their paths travel. The images are made first, in a temporary folder.

Needs: flowrt[processes], pillow. Prints:

    39 thumbnails, the first is 160 x 120
    photo-07.jpg: UnidentifiedImageError
    made in worker processes
"""

from __future__ import annotations

import asyncio
import functools
import os
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

import flowrt

SIZE = (160, 160)  # at most


def make_photo(number: int, path: Path) -> None:
    image = Image.linear_gradient("L").resize((800, 600)).convert("RGB")
    ImageDraw.Draw(image).ellipse((number * 10, 100, number * 10 + 300, 400), fill=(number * 6, 120, 60))
    image.save(path)


def make_thumbnail(folder: Path, photo: Path) -> tuple[tuple[int, int], int]:
    """Write a thumbnail; return its size, and the process that made it."""
    with Image.open(photo) as image:
        image.thumbnail(SIZE)
        image.save(folder / photo.name)
        return image.size, os.getpid()


async def main(folder: Path) -> None:
    photos, thumbnails = folder / "photos", folder / "thumbnails"
    photos.mkdir()
    thumbnails.mkdir()
    for number in range(40):
        make_photo(number, photos / f"photo-{number:02}.jpg")
    (photos / "photo-07.jpg").write_bytes(b"damaged")

    async with flowrt.ProcessesExecutor(2) as executor:
        results = await flowrt.map(
            functools.partial(make_thumbnail, thumbnails),
            sorted(photos.iterdir()),
            max_concurrency=8,  # four at a time for each worker, so that none waits for its next
            item_timeout=60,
            executor=executor,
        )
    size = results[0].output[0]
    print(f"{len(list(thumbnails.iterdir()))} thumbnails, the first is {size[0]} x {size[1]}")
    for result in results.failed:
        print(f"{result.input_data.name}: {result.error_type}")
    workers = {result.output[1] for result in results.succeeded}
    print("made in this process" if os.getpid() in workers else "made in worker processes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
