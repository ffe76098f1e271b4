"""The model card of an exported adapter: a README.md as the Hugging Face hub reads it.

Numbers, pictures and settings are those of the run; nothing is measured. The texts of a run may be
somebody else's: they cannot end a line of the front matter, or become markup. Absolute paths do not
leave this machine.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import pictures, reading
from common.adapters import exports
from common.audit import watch
from common.choices import Program
from common.config import Config
from common.errors import RequestError
from common.report import course, page, words
from common.runs.directory import RunDirectory
from common.workflows.images import Images
from common.workflows.run import Run

__all__ = ["NAME", "Card", "base_model", "is_unchanged", "make", "signed"]

NAME = "README.md"

PROMPTS = 4
"""Prompts with a picture of their own on the hub."""

OTHER = "other"
LICENCES: Mapping[str, Mapping[str, str]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"license": "creativeml-openrail-m"},
    "CompVis/stable-diffusion-v1-4": {"license": "creativeml-openrail-m"},
    "stabilityai/stable-diffusion-2-1": {"license": "openrail++"},
    **{
        f"stabilityai/stable-diffusion-{name}": {
            "license": OTHER,
            "license_name": "stabilityai-ai-community",
        }
        for name in ("3-medium-diffusers", "3.5-medium", "3.5-large")
    },
    "black-forest-labs/FLUX.1-dev": {
        "license": OTHER,
        "license_name": "flux-1-dev-non-commercial-license",
    },
    "black-forest-labs/FLUX.1-schnell": {"license": "apache-2.0"},
}
"""Licences of base models, which an adapter of them has too."""

CITATION = """@article{liu2026drift,
  title   = {Beyond the {Dirac} Delta: Mitigating Diversity Collapse in Reinforcement Fine-Tuning
             for Versatile Image Generation},
  author  = {Liu, Jinmei and Li, Haoru and Sun, Zhenhong and Chen, Chaofeng and Bian, Yatao and
             Wang, Bo and Dong, Daoyi and Chen, Chunlin and Wang, Zhi},
  journal = {arXiv preprint arXiv:2601.12401},
  year    = {2026}
}"""

_SIGNED = re.compile(rb"\n<!-- drift export: ([0-9a-f]{64}) -->\n\Z")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PATH = re.compile(r"(?<![\w.:/])~?/(?:[^\s'\"/,]+/)*([^\s'\"/,]+)")


@dataclass(frozen=True)
class Card:
    """text: of README.md. pictures: by name, beside it. notes: what to know, for the terminal."""

    text: str
    pictures: Mapping[str, bytes]
    notes: tuple[str, ...]


def base_model(config: Config) -> str | None:
    """The repository of the base model; None where it is a folder of this machine."""
    path = config.model.path or ""
    return path if _REPOSITORY.fullmatch(path) and not Path(path).exists() else None


def signed(text: str) -> bytes:
    """The content of the file: the text, and its hash, by which `is_unchanged` knows it."""
    content = text.encode(errors="replace")
    return content + f"\n<!-- drift export: {hashlib.sha256(content).hexdigest()} -->\n".encode()


def is_unchanged(file: Path) -> bool:
    """Whether a card is as it was written here."""
    try:
        content = reading.content(file)
    except OSError:
        return False
    mark = _SIGNED.search(content)
    whole = content[: mark.start()] if mark else b""
    return mark is not None and hashlib.sha256(whole).hexdigest().encode() == mark[1]


def make(run: RunDirectory, program: Program, update: int, file: str) -> Card:
    """The card of the adapter after an update. file: the adapter's name."""
    rows = [row for row in course.evaluations(run) if row["update"] <= update]
    base = rows[0] if rows else None
    tuned = rows[-1] if len(rows) > 1 else None
    notes: list[str] = []
    shown, widget = _pictures(run, base, tuned, notes)
    licence = LICENCES.get(base_model(run.config) or "")
    if licence is None:
        notes.append(f"{NAME} has no licence, since the base model's is not known here: add it")
    parts = [
        _front(run, program, licence, widget),
        f"# {_escaped(run.path.resolve().name)}",
        _about(run, update),
        *_results(run, base, tuned, shown, update),
        _use(run, program, file, base),
        _training(run, update),
        "## Citation\n\n" + f"```bibtex\n{CITATION}\n```",
    ]
    return Card("\n\n".join(parts) + "\n", shown, tuple(notes))


# --- the parts ------------------------------------------------------------------------------------


def _front(
    run: RunDirectory,
    program: Program,
    licence: Mapping[str, str] | None,
    widget: list[dict[str, Any]],
) -> str:
    """The front matter, which is YAML; a text in JSON is one in YAML too."""
    values: dict[str, Any] = {
        "library_name": "peft" if program == "peft" else "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "text-to-image", "reinforcement-learning", "drift", program],
        **(licence or {}),
    }
    if name := base_model(run.config):
        values |= {"base_model": name, "base_model_relation": "adapter"}
    if widget:
        values["widget"] = widget
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _about(run: RunDirectory, update: int) -> str:
    config = run.config
    model = base_model(config) or f"a {config.model.family} model"
    return (
        f"A low-rank adapter of {_escaped(model)}, trained by reinforcement learning for "
        f"{_escaped(config.reward.summary)} with the recipe {_escaped(config.run.recipe)} of the "
        f"DRIFT toolkit, after {words.count(update, 'update')}."
    )


def _results(
    run: RunDirectory,
    base: Mapping[str, Any] | None,
    tuned: Mapping[str, Any] | None,
    shown: Mapping[str, bytes],
    update: int,
) -> list[str]:
    """What was measured, with pictures and the warnings of the report."""
    if base is None or tuned is None:
        return ["## Base against tuned\n\nThis adapter was not evaluated."]
    lines = ["| measure | base | tuned | change |", "|---|---|---|---|"]
    for line in page.headline(base, tuned):
        share = f" ({line.share} of base)" if line.share else ""
        name = _escaped(line.name)
        lines.append(f"| {name} | {line.base} | {line.tuned} | {line.difference}{share} |")
    prompts, images = len(_prompts(base)), base.get("images", "?")
    parts = [
        "## Base against tuned",
        "\n".join(lines),
        f"Means over {words.count(prompts, 'prompt')} of the training, "
        f"{_escaped(str(images))} images each, after update {tuned['update']}; the same initial "
        "noise for both. One run: no interval.",
    ]
    parts += [f"![{_escaped(name)}]({name})" for name in shown if name in (BASE, TUNED)]
    metrics = [row for row in run.metrics() if row["update"] <= update]
    sentences = [*page.warnings(metrics, [base, tuned]), *watch.alarms(run.audits())]
    if sentences:
        parts.append("\n".join(f"* {_escaped(sentence)}" for sentence in sentences))
    return parts


def _use(run: RunDirectory, program: Program, file: str, base: Mapping[str, Any] | None) -> str:
    config = run.config
    model = json.dumps(base_model(config) or "FOLDER OF THE BASE MODEL", ensure_ascii=False)
    prompt = next(iter(_prompts(base)), "a photo")
    text = json.dumps(reading.printable(prompt, 200), ensure_ascii=False)
    part = exports.COMPONENTS[config.model.family]
    load = [
        "from diffusers import DiffusionPipeline",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({model})",
    ]
    flux = config.model.family == "flux"  # its guidance scale is an input of the network
    scale = config.model.guidance_embedding if flux else config.rollout.guidance
    draw = (
        f"image = pipe({text}, num_inference_steps={config.evaluate.steps}, "
        f"guidance_scale={scale:g}).images[0]"
    )
    how = {
        "diffusers": _python(*load, 'pipe.load_lora_weights("THIS FOLDER OR REPOSITORY")', draw),
        "peft": _python(
            "from peft import PeftModel",
            *load,
            f'pipe.{part} = PeftModel.from_pretrained(pipe.{part}, "THIS FOLDER OR REPOSITORY")',
            draw,
        ),
        "comfyui": f"Put `{file}` into `models/loras`, and add the node *Load LoRA* with "
        "`strength_model` 1.",
        "kohya": f"In sd-scripts: `--network_module networks.lora --network_weights {file} "
        "--network_mul 1`. In Forge and A1111: put it into `models/Lora`.",
        "mlx": _fenced(
            "", f"mflux-generate --model dev --lora-paths {file} --lora-scales 1 --prompt {text}"
        ),
    }[program]
    return f"## Use it\n\n{how}\n\nStrength 1 is that of the training."


def _training(run: RunDirectory, update: int) -> str:
    config = run.config
    adapter, rollout = config.adapter, config.rollout
    start = run.starts()[-1] if run.starts() else {}
    facts = {
        "reward": config.reward.summary,
        "updates": f"{update} of {config.run.updates}",
        "images of an update": rollout.prompts * rollout.group_size,
        "adapter": f"rank {adapter.rank}, alpha {adapter.alpha:g}",
        "adapted": ", ".join(adapter.targets),
        "learning rate": f"{config.optimizer.learning_rate:g}",
        "seed": config.run.seed,
        "backend": start.get("backend", config.run.backend),
        "library": start.get("library", "?"),
    }
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {_escaped(str(value))} |" for name, value in facts.items()]
    command = _fenced("", _PATH.sub(r"PATH/\1", reading.printable(course.command(run))))
    return "\n\n".join(["## How it was trained", "\n".join(lines), command])


def _prompts(row: Mapping[str, Any] | None) -> list[str]:
    """The prompts of an evaluation; [] where there are none."""
    prompts = (row or {}).get("prompts")
    return [str(prompt) for prompt in prompts] if isinstance(prompts, list) else []


# --- pictures -------------------------------------------------------------------------------------

BASE, TUNED = "images/base.png", "images/tuned.png"


def _pictures(
    run: RunDirectory,
    base: Mapping[str, Any] | None,
    tuned: Mapping[str, Any] | None,
    notes: list[str],
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """PNG files by name, and the entries of the front matter for those of single prompts."""
    shown: dict[str, bytes] = {}
    widget: list[dict[str, Any]] = []
    for name, row in ((BASE, base), (TUNED, tuned)):
        if row is None:
            continue
        try:
            images = Run(run).images(int(row["update"]))
            if not all(isinstance(prompt, str) for prompt in images.prompts):
                raise TypeError
        except RequestError as error:
            notes.append(f"{NAME} has no {name}: {error}")
            continue
        except (KeyError, TypeError, ValueError):
            notes.append(f"{NAME} has no {name}: the record of its evaluation is damaged")
            continue
        shown[name] = images.png()
        if name == TUNED:
            widget = _widget(images, shown)
    return shown, widget


def _widget(images: Images, shown: dict[str, bytes]) -> list[dict[str, Any]]:
    entries = []
    for number, prompt in enumerate(images.prompts[:PROMPTS]):
        name = f"images/prompt-{number + 1}.png"
        shown[name] = pictures.encode_png(pictures.grid(images.array[number : number + 1]))
        text = reading.printable(prompt, 300)
        entries.append({"text": text, "output": {"url": name}})
    return entries


# --- text -----------------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    """The text on one line of Markdown, with nothing in it that is markup."""
    line = re.sub(r"([\\`*_{}\[\]()#|!~])", r"\\\1", reading.printable(text, 600))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _python(*lines: str) -> str:
    return _fenced("python", "\n".join(lines))


def _fenced(language: str, text: str) -> str:
    """A block of code; three backticks in the text cannot end it."""
    return f"```{language}\n{text.replace('```', '` ` `')}\n```"
