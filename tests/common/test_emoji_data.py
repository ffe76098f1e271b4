"""The emoji builder gives the shipped files back: names, indices, and pixels of known drawings."""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from common.embedded.model import FOLDER

pytest.importorskip("resvg_py")

ROOT = Path(__file__).parents[2]

# Two drawings of @iconify-json/fluent-emoji-flat 1.2.6 and fluent-emoji 1.2.7 (MIT, Microsoft).
DROPLET = (
    '<path fill="#26c9fc" d="M18.27 3.388c-.991-1.85-3.663-1.85-4.643 0l-6.273 11.8c-3.842 '
    '6.58.95 14.81 8.614 14.81h.21c7.554 0 12.266-8.1 8.494-14.58z"/>'
)
TONGUE = (
    '<g fill="none"><path fill="#89029C" d="M30 7c0 7.73-6.27 14-14 14S2 14.73 2 7z"/>'
    '<path fill="#F92F60" d="M19.313 12.063h-6.5c-1.079 0-4.797.593-4.797 2.906v7.969C8.016 '
    '25.344 10.063 30 16 30c5.938 0 8-4.656 8-7.062v-7.97c0-2.155-3.156-2.905-4.687-2.905"/></g>'
)


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location(
        "build_emoji_data", ROOT / "scripts" / "build_emoji_data.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shipped():
    names = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))
    with np.load(FOLDER / "emoji32.npz") as file:
        return names, {key: file[key] for key in file.files}


def icon_set(size=32, **bodies):
    icons = {name.replace("_", "-"): {"body": body} for name, body in bodies.items()}
    return {"icons": icons, "width": size, "height": size}


@pytest.mark.parametrize(
    ("style", "name", "body"),
    [("fluent-emoji-flat", "droplet", DROPLET), ("fluent-emoji", "tongue", TONGUE)],
)
def test_pixels_are_the_shipped_ones(build, shipped, style, name, body):
    names, arrays = shipped
    row = np.flatnonzero(
        (arrays["name_index"] == names["names"].index(name))
        & (arrays["style_index"] == names["styles"].index(style))
    )
    assert len(row) == 1
    np.testing.assert_array_equal(
        build.render(icon_set(**{name: body}), name), arrays["images"][row[0]]
    )


def test_an_icon_may_have_its_own_size(build):
    square = '<path fill="#000" d="M0 0h16v16H0z"/>'
    icons = icon_set(32, a=square)
    quarter = build.render(icons, "a")
    assert (quarter[:16, :16] == 0).all()
    assert (quarter[16:] == 255).all()
    assert (quarter[:, 16:] == 255).all()
    icons["icons"]["a"] |= {"width": 16, "height": 16}
    assert (build.render(icons, "a") == 0).all()
    icons["icons"]["a"] |= {"width": 17, "height": 16}
    assert build.render(icons, "a").shape == (32, 32, 3)
    icons["icons"]["a"] |= {"width": 16, "left": 8, "top": -8}
    moved = build.render(icons, "a")
    assert (moved[16:, :16] == 0).all()
    assert (moved[:16] == 255).all()


def test_names_files_agree_with_the_rules(build, shipped):
    names, arrays = shipped
    assert build.describe(names["names"]) == names
    drawn = {names["names"][i] for i in np.unique(arrays["name_index"])}
    assert set(names["names"]) - drawn == set(build.NAMES_WITHOUT_IMAGES)
    assert not [name for name in drawn if build.LEFT_OUT.search(name)]
    assert sorted(build.PACKAGES) == names["styles"]


def test_names_need_five_sets_and_a_thing(build):
    drawn_by = {"rose": 5, "owl": 7, "ant": 4, "left-arrow": 7, "1st-place": 7, "woman-cook": 7}
    sets = {
        style: {"icons": {name: {} for name, n in drawn_by.items() if n > i}}
        for i, style in enumerate(build.PACKAGES)
    }
    assert build.choose_names(sets) == sorted(["rose", "owl", *build.NAMES_WITHOUT_IMAGES])


@pytest.fixture
def packages(build, tmp_path):
    """Package files of seven sets that all draw the tongue, and five of them the droplet."""
    for i, (style, version) in enumerate(build.PACKAGES.items()):
        bodies = {"tongue": TONGUE} | ({"droplet": DROPLET} if i < 5 else {})
        content = json.dumps(icon_set(**bodies)).encode()
        with tarfile.open(tmp_path / f"iconify-json-{style}-{version}.tgz", "w:gz") as archive:
            member = tarfile.TarInfo("package/icons.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tmp_path


def test_from_packages_to_files(build, packages, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["build", "--packages", str(packages), "--out", str(out)])
    assert build.main() == 0
    names = json.loads((out / "names.json").read_text())["names"]
    assert names == ["droplet", "kiss", "red-triangle-pointed-up", "tongue"]
    with np.load(out / "emoji32.npz") as file:
        assert file["images"].shape == (12, 32, 32, 3)
        assert file["name_index"].tolist() == [0] * 5 + [3] * 7
        order = [build.STYLES[i] for i in file["style_index"]]
    assert order == [*list(build.PACKAGES)[:5], *build.PACKAGES]
    assert "12 images of 2 names" in capsys.readouterr().out


def test_check_says_what_differs(build, shipped, packages, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["build", "--packages", str(packages), "--check"])
    assert build.main() == 1
    assert "names.json: names differs" in capsys.readouterr().out
    names, arrays = shipped
    assert build.agreement(names, arrays, FOLDER) == []
    changed = arrays | {"images": arrays["images"].copy()}
    changed["images"][7, 0, 0, 0] ^= 1
    assert build.agreement(names, changed, FOLDER) == ["images: 1 of 5287 differ, 0.000% of values"]
