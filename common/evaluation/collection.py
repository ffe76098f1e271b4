"""Images that another program made of a run's prompts: which file belongs to which prompt."""

import hashlib
from collections.abc import Collection as Names, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import reading
from common.evaluation import foreign, suggested
from common.evaluation.foreign import ImagesError
from common.evaluation.records import Protocol, Record, Variant
from common.runs.directory import RunDirectory


@dataclass(frozen=True)
class Collection:
    """place: the folder or the `.jsonl`. by_prompt: files of each prompt, equally many.

    others: the number of files beside them that are no images by their names.
    """

    place: Path
    by_prompt: Mapping[str, tuple[Path, ...]]
    others: int = 0

    @property
    def count(self) -> int:
        """Images of each prompt."""
        return len(next(iter(self.by_prompt.values())))

    def size(self, prompt: str) -> tuple[int, int]:
        """(Height, width) of the first image of a prompt. Raises ImagesError."""
        height, width, _ = foreign.image(self.by_prompt[prompt][0]).shape
        return height, width

    def images(
        self,
        prompts: Sequence[str],
        size: tuple[int, int],
        which: str = "the base model's images have",
    ) -> np.ndarray:
        """The images of these prompts, uint8 [P, n, H, W, 3].

        size: (H, W), which each must have. which: what has it, for an error message. Raises
        ImagesError.
        """
        files = [self.by_prompt[text] for text in prompts]
        return np.stack([np.stack([_sized(file, size, which) for file in row]) for row in files])

    @property
    def remarks(self) -> list[str]:
        """What the user should know of the folder."""
        if not self.others:
            return []
        return [f"left out: {self.others} files that are no PNG, JPEG or WebP"]

    def digest(self, prompts: Sequence[str]) -> str:
        """SHA-256 of the files of these prompts, in order. Raises ImagesError."""
        whole = hashlib.sha256()
        for text in prompts:
            for file in self.by_prompt[text]:
                whole.update(hashlib.sha256(foreign.content(file)).digest())
        return whole.hexdigest()


def read(place: Path, known: Names[str] | None) -> Collection:
    """The images of a folder `PLACE/PROMPT/*.png` or of a file of lines with path and prompt.

    A folder is named as its prompt, or by its letters and digits with other signs between them.
    A line of a `.jsonl` is {"path": ..., "prompt": ...}, the path below the folder of the file.
    Images are PNG, JPEG or WebP.

    Args:
        place: the folder, or the `.jsonl`.
        known: the prompts that there may be; None: any. A folder is then named as its prompt, with
            "_" for a space.

    Raises:
        ImagesError: in one line, for what is not there, a prompt that is not known or no text, a
            path or a link that leads out of the folder, and prompts with other numbers of images.
    """
    others = 0
    try:
        if place.is_dir():
            by_prompt, others = _from_folder(place, known)
        elif place.suffix.lower() == ".jsonl" and place.exists():
            by_prompt = _from_lines(place, known)
        else:
            what = "is neither a folder nor a .jsonl" if place.exists() else "is not there"
            raise ImagesError(f"{place} {what}: --folder takes DIR/PROMPT/*.png or a .jsonl")
    except OSError as error:
        raise ImagesError(f"{error.filename or place}: {error.strerror}") from None
    if not by_prompt:
        raise ImagesError(f"{place} has no image of any prompt")
    first, files = next(iter(by_prompt.items()))
    for text, more in by_prompt.items():
        if len(more) != len(files):
            raise ImagesError(
                f"{place} has {len(files)} images of '{first}' and {len(more)} of '{text}': every "
                "prompt needs equally many, since measures are never compared across numbers"
            )
    return Collection(place, {text: tuple(files) for text, files in by_prompt.items()}, others)


def choose(
    collection: Collection, base: Sequence[Record], directory: RunDirectory
) -> tuple[list[Protocol], list[str]]:
    """Those of a run's protocols that the images can be measured under, and remarks for the user.

    Each has as many images of each prompt, and all of its prompts. Raises ImagesError where there
    is none, and for a split of which only some prompts are there.

    Args:
        collection: the images.
        base: records of the run's base model.
        directory: the run.
    """
    place, count, run = collection.place, collection.count, directory.path
    measured = [record.protocol for record in base]
    numbers = sorted({how.images for how in measured})
    if count not in numbers:
        there = " and ".join(map(str, numbers))
        raise ImagesError(
            f"{place} has {count} images of each prompt and {run} was measured with {there}: run "
            f"`{suggested.eval_run(directory, base, [Variant(0)], count)}`, or make as many images "
            "as it has"
        )
    same = [how for how in measured if how.images == count]
    chosen = [how for how in same if collection.by_prompt.keys() >= {*how.prompts}]
    remarks = collection.remarks
    for split in dict.fromkeys(how.split for how in same):
        if any(how.split == split for how in chosen):
            continue
        most = max(
            (how for how in same if how.split == split),
            key=lambda how: len(collection.by_prompt.keys() & {*how.prompts}),
        )
        missing = [text for text in most.prompts if text not in collection.by_prompt]
        if len(missing) < len(most.prompts):
            raise ImagesError(
                f"{place} has no image of '{missing[0]}', one of the {len(most.prompts)} {split} "
                f"prompts that {run} was measured on"
            )
        remarks.append(f"{split}: not measured, {place} has none of its prompts")
    if not chosen:
        raise ImagesError(f"{place} has none of the prompts that {run} was measured on")
    used = {text for how in chosen for text in how.prompts}
    if spare := [text for text in collection.by_prompt if text not in used]:
        remarks.append(f"left out: '{spare[0]}'{_and_more(len(spare))}, in no measurement here")
    return chosen, remarks


def _and_more(count: int) -> str:
    return f" and {count - 1} more prompts" if count > 1 else ""


def _sized(file: Path, size: tuple[int, int], which: str) -> np.ndarray:
    image = foreign.image(file)
    if image.shape[:2] != size:
        height, width = image.shape[:2]
        raise ImagesError(
            f"{file} has {width} x {height} pixels and {which} {size[1]} x {size[0]}: what is "
            "measured depends on the size, so make all in that size"
        )
    return image


# --- folders --------------------------------------------------------------------------------------


def _from_folder(place: Path, known: Names[str] | None) -> tuple[dict[str, list[Path]], int]:
    """The images of each prompt, and the number of files that are none."""
    root, by_prompt, others = place.resolve(), {}, 0
    by_letters: dict[str, list[str]] = {}
    for text in known or ():
        by_letters.setdefault(letters(text), []).append(text)
    for entry in sorted(place.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            if entry.suffix.lower() in foreign.SUFFIXES:
                raise ImagesError(f"{entry} belongs to no prompt: images are in DIR/PROMPT")
            others += 1
            continue
        if entry.is_symlink():
            foreign.check_inside(entry, root)
        if known is None:
            text = _checked(entry.name.replace("_", " ").strip(), str(entry))
        else:
            text = _prompt(entry, known, by_letters)
        if text in by_prompt:
            raise ImagesError(f"{entry} and another folder of {place} are both for '{text}'")
        files = [file for file in entry.iterdir() if not file.name.startswith(".")]
        by_prompt[text] = _images(files, root)
        others += len(files) - len(by_prompt[text])
    return by_prompt, others


def _images(files: Sequence[Path], root: Path) -> list[Path]:
    """The images among the files of a prompt's folder, in the order of their numbers."""
    for file in files:
        foreign.check_inside(file, root)
        if file.is_dir():
            raise ImagesError(f"{file} is a folder in that of a prompt: images are expected")
    return sorted((f for f in files if f.suffix.lower() in foreign.SUFFIXES), key=_number)


def letters(text: str) -> str:
    """The letters and digits of a text in small letters, with one "_" for what is between them."""
    signs = "".join(sign if sign.isalnum() else " " for sign in text.casefold())
    return "_".join(signs.split())


def _prompt(entry: Path, known: Names[str], by_letters: Mapping[str, list[str]]) -> str:
    if entry.name in known:
        return entry.name
    texts = by_letters.get(letters(entry.name), [])
    if len(texts) > 1:
        raise ImagesError(
            f"{entry} may be for '{texts[0]}' or '{texts[1]}': name the prompts in a .jsonl"
        )
    if not texts:
        raise ImagesError(f"'{entry.name}' in {entry.parent} is no prompt that the run has")
    return texts[0]


def _checked(text: str, where: str) -> str:
    """The text of a prompt that no run knows; ImagesError where it is none."""
    if not text.strip() or not text.isprintable():
        raise ImagesError(f"{where}: {text!a} is no prompt")
    return text


def _number(file: Path) -> tuple[int, str]:
    """Sorts 2.png before 10.png."""
    digits = "".join(sign for sign in file.stem if sign.isascii() and sign.isdigit())[:18]
    return int(digits or 0), file.name


# --- lines ----------------------------------------------------------------------------------------


def _from_lines(place: Path, known: Names[str] | None) -> dict[str, list[Path]]:
    try:
        content = reading.content(place, reading.LOG)
    except OSError as error:
        raise ImagesError(f"{place}: {error.strerror}") from None
    folder, by_prompt, seen = place.parent, {}, set()
    root = folder.resolve()
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{place}, line {number}"
        name, text = _line(line, where)
        if known is None:
            _checked(text, where)
        elif text not in known:
            raise ImagesError(f"{where}: '{text}' is no prompt that the run has")
        file = folder / name
        foreign.check_inside(file, root)
        if (there := file.resolve()) in seen:
            raise ImagesError(f"{where}: {name} is named twice")
        seen.add(there)
        by_prompt.setdefault(text, []).append(file)
    return by_prompt


def _line(line: bytes, where: str) -> tuple[str, str]:
    try:
        values: Any = reading.json_document(line)
        name, text = values["path"], values["prompt"]
        if isinstance(name, str) and isinstance(text, str) and "\0" not in name:
            return name, text
    except (ValueError, KeyError, TypeError):
        pass
    raise ImagesError(f'{where}: write {{"path": "image.png", "prompt": "its text"}}')
