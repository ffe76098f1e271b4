"""Rebuild the emoji images and names of the embedded model from seven pinned npm icon sets.

    python scripts/build_emoji_data.py --out FOLDER     writes emoji32.npz and names.json
    python scripts/build_emoji_data.py --check          compares with the shipped files

Needs resvg-py 0.5.0 (the `dev` extra), and npm unless the package files lie in --packages.
"""

import argparse
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

from common.embedded.model import FOLDER

# In the order in which a name's images lie in the file.
PACKAGES = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "twemoji": "1.2.5",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji": "1.2.7",
    "emojione": "1.2.3",
    "fxemoji": "1.2.2",
}
STYLES = sorted(PACKAGES)
SETS_NEEDED = 5
MAX_TOKENS = 6
# Names that are no concrete things, or differ from others only in sex, direction, colour or text.
LEFT_OUT = re.compile(
    r"^\d|button|arrow|clock|oclock|thirty|keycap|hand|man|men|boy|girl|person|family|flag"
    r"|circle|square|japanese|letter|moon-face"
)
# Only four of the pinned sets have them, so they have no images; their indices stay.
NAMES_WITHOUT_IMAGES = ("kiss", "red-triangle-pointed-up")

IconSet = dict[str, Any]


def fetch(packages: Path | None) -> dict[str, IconSet]:
    """The icon sets by style, from package files in a folder or through `npm pack`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = packages or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        return {style: _read(style, version, folder) for style, version in PACKAGES.items()}


def choose_names(sets: dict[str, IconSet]) -> list[str]:
    """Sorted names of concrete things that enough sets draw."""
    count = Counter(name for icons in sets.values() for name in icons["icons"])
    names = {name for name, n in count.items() if n >= SETS_NEEDED and not LEFT_OUT.search(name)}
    return sorted(names | set(NAMES_WITHOUT_IMAGES))


def describe(names: list[str]) -> dict[str, Any]:
    """The contents of names.json: names, styles and the words of the names as a vocabulary."""
    words = sorted({word for name in names for word in re.findall("[a-z0-9]+", name)})
    return {
        "names": names,
        "styles": STYLES,
        "vocabulary": ["<pad>", "<null>", *words],
        "max_tokens": MAX_TOKENS,
    }


def render(icons: IconSet, name: str) -> np.ndarray:
    """One icon on white: uint8 [32, 32, 3]. 64 pixels, then the mean of each 2 x 2."""
    left, top, width, height = (
        icons["icons"][name].get(key, icons.get(key, default))
        for key, default in {"left": 0, "top": 0, "width": 16, "height": 16}.items()
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icons["icons"][name]["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=64, height=64)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    picture = picture.resize((64, 64))  # nine of the icons are not square
    white = Image.new("RGBA", picture.size, "white")
    pixels = np.asarray(Image.alpha_composite(white, picture).convert("RGB"), dtype=np.float64)
    return np.rint(pixels.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).astype(np.uint8)


def build(sets: dict[str, IconSet], names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of emoji32.npz: every drawing of every name, with the indices of both."""
    drawn = [
        (index, STYLES.index(style), render(icons, name))
        for index, name in enumerate(names)
        if name not in NAMES_WITHOUT_IMAGES
        for style, icons in sets.items()
        if name in icons["icons"]
    ]
    name_index, style_index, images = zip(*drawn, strict=True)
    return {
        "images": np.stack(images),
        "name_index": np.array(name_index, dtype=np.int16),
        "style_index": np.array(style_index, dtype=np.int8),
    }


def agreement(names: dict[str, Any], arrays: dict[str, np.ndarray], shipped: Path) -> list[str]:
    """The differences from the shipped files, one line each; [] without any."""
    lines = []
    reference = json.loads((shipped / "names.json").read_text(encoding="utf-8"))
    lines += [f"names.json: {key} differs" for key in reference if reference[key] != names.get(key)]
    with np.load(shipped / "emoji32.npz") as file:
        expected = {key: file[key] for key in file.files}
    for key, values in expected.items():
        if key not in arrays or arrays[key].shape != values.shape:
            built = arrays[key].shape if key in arrays else "missing"
            lines.append(f"{key}: {built}, shipped {values.shape}")
        elif (different := arrays[key] != values).any():
            items = int(different.reshape(len(values), -1).any(axis=1).sum())
            lines.append(
                f"{key}: {items} of {len(values)} differ, {different.mean():.3%} of values"
            )
    return lines


def main() -> int:
    """Build, then write or compare. Exit code 1 when --check finds a difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packages", type=Path, help="folder of iconify-json-*.tgz, kept filled")
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument("--out", type=Path, help="folder to write to")
    todo.add_argument("--check", action="store_true", help="compare with the shipped files")
    arguments = parser.parse_args()
    sets = fetch(arguments.packages)
    names = describe(choose_names(sets))
    arrays = build(sets, names["names"])
    print(f"{len(arrays['images'])} images of {len(np.unique(arrays['name_index']))} names")
    if arguments.check:
        lines = agreement(names, arrays, FOLDER)
        print("\n".join(lines) or "identical to the shipped files in every pixel, index and name")
        return 1 if lines else 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(arguments.out / "emoji32.npz", **arrays)  # pyright: ignore[reportArgumentType]
    text = json.dumps(names, indent=0)
    (arguments.out / "names.json").write_text(text, encoding="utf-8")
    return 0


def _read(style: str, version: str, folder: Path) -> IconSet:
    path = folder / f"iconify-json-{style}-{version}.tgz"
    if not path.exists():
        package = f"@iconify-json/{style}@{version}"
        subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", str(folder), package],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    with tarfile.open(path) as archive:
        member = archive.extractfile("package/icons.json")
        if member is None:
            raise ValueError(f"{path} has no package/icons.json")
        return json.load(member)


if __name__ == "__main__":
    raise SystemExit(main())
