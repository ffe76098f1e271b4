"""`drift export` and `drift push`: the files, the model card, and what goes to the hub."""

import http.server
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml
from PIL import Image

from common.adapters.low_rank import pairs
from tests.common.synthetic_adapter import make_adapter, parameters

PROGRAMS = ("diffusers", "peft", "comfyui", "kohya", "mlx")
FILES = {"diffusers": "pytorch_lora_weights.safetensors", "peft": "adapter_model.safetensors"}
PICTURES = ["images/base.png", "images/tuned.png", *(f"images/prompt-{n}.png" for n in range(1, 5))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_adapter(tmp_path_factory.mktemp("adapters") / "night")


@pytest.fixture
def run(made, tmp_path):
    import shutil

    return Path(shutil.copytree(made.path, tmp_path / "night"))


def front(card):
    """The front matter."""
    _, matter, _ = card.split("---\n", 2)
    return yaml.safe_load(matter)


def changes():
    """What each weight becomes larger by: alpha / rank B A, with alpha / rank = 2."""
    return {name: 2.0 * b @ a for name, (a, b) in pairs(parameters()).items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_gets_its_file_and_a_card(drift, run, program):
    result = drift("export", run, "--to", program)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    folder = run / program
    name = FILES.get(program, "night-000009.safetensors")
    extra = ["adapter_config.json"] if program == "peft" else []
    expected = [name, *extra, *PICTURES, "README.md"]
    assert result.stdout.splitlines() == [str(folder / each) for each in expected]
    card = (folder / "README.md").read_text()
    matter = front(card)
    assert matter["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert matter["base_model_relation"] == "adapter"
    assert matter["license_name"] == "flux-1-dev-non-commercial-license"
    assert matter["widget"][0]["output"]["url"] == "images/prompt-1.png"
    assert "after 9 updates" in card
    assert "drift run flux-dev-pickscore-grpo" in card
    for picture in re.findall(r"\]\((images/[^)]+)\)", card):
        with Image.open(folder / picture) as image:
            assert min(image.size) > 32
    used = {"diffusers": "load_lora_weights", "peft": "PeftModel", "mlx": "mflux-generate"}
    assert used.get(program, name) in card


def test_the_card_has_the_numbers_of_the_exported_checkpoint(drift, run):
    assert drift("export", run, "--checkpoint", 4).exit_code == 0
    card = (run / "diffusers" / "README.md").read_text()
    assert "after 4 updates" in card
    assert "| Diversity | 0.392 | 0.383 | −0.009 (98% of base) |" in card
    assert "8 images each" not in card
    assert "16 images each, after update 4" in card


def test_what_mflux_reads_has_the_strength_of_the_training(drift, run, tmp_path):
    assert drift("export", run, "--to", "mlx", "--out", tmp_path / "loras").exit_code == 0
    assert [path.name for path in (tmp_path / "loras").iterdir()] == ["night-000009.safetensors"]
    file = tmp_path / "loras" / "night-000009.safetensors"
    arrays = safetensors.numpy.load_file(file)
    for name, expected in changes().items():
        a, b = (arrays[f"transformer.{name}.lora_{part}.weight"] for part in "AB")
        np.testing.assert_allclose(b @ a, expected, atol=1e-5)
    with safetensors.safe_open(file, "numpy") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert settings["transformer.lora_alpha"] == settings["transformer.r"] == 2


def test_peft_gets_the_settings_and_arrays_of_the_training(drift, run):
    assert drift("export", run, "--to", "peft").exit_code == 0
    settings = json.loads((run / "peft" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "black-forest-labs/FLUX.1-dev"
    assert (settings["r"], settings["lora_alpha"]) == (2, 4.0)
    arrays = safetensors.numpy.load_file(run / "peft" / FILES["peft"])
    expected = {f"base_model.model.{name}": value for name, value in parameters().items()}
    assert arrays.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_a_card_that_was_edited_stays_and_another_is_replaced(drift, run):
    assert drift("export", run, "--checkpoint", 4).exit_code == 0
    card = run / "diffusers" / "README.md"
    assert drift("export", run).exit_code == 0
    assert "after 9 updates" in card.read_text()
    card.write_text("mine\n" + card.read_text())
    result = drift("export", run, "--checkpoint", 4)
    assert result.exit_code == 0
    assert "README.md was written or changed by hand and stays" in result.stderr
    assert card.read_text().startswith("mine\n")
    assert "after 9 updates" in card.read_text()


def test_without_a_card_there_is_the_adapter_alone(drift, run, tmp_path):
    assert drift("export", run, "--no-card", "--out", tmp_path / "bare").exit_code == 0
    assert [path.name for path in (tmp_path / "bare").iterdir()] == [FILES["diffusers"]]


def test_a_run_of_others_writes_no_markup_and_no_path_of_this_machine(drift, tmp_path):
    evil = ["a\n---\nlicense: mit", "<script>x</script>", "[a](http://x) | `b`", "```\nx"]
    (tmp_path / "model").mkdir()
    run = make_adapter(
        tmp_path / "run",
        f"model.path={tmp_path}/model",
        f"reward.cache={tmp_path}/secret",
        prompts=evil,
    )
    result = drift("export", run.path)
    assert result.exit_code == 0, result.output
    assert "has no licence" in result.stderr
    card = (run.path / "diffusers" / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "PATH/model" in card
    assert "<script" not in card.replace(json.dumps(evil[1]), "")
    matter = front(card)
    assert "license" not in matter
    assert "base_model" not in matter
    assert matter["widget"][0]["text"] == "a --- license: mit"
    assert card.count("\n---\n") == 1
    assert card.split("\n---\n")[1].count("```") % 2 == 0


def test_missing_pictures_are_said(drift, run):
    (run / "samples" / "000009.png").write_bytes(b"no picture")
    result = drift("export", run)
    assert result.exit_code == 0
    assert "README.md has no images/tuned.png" in result.stderr
    assert "images/tuned" not in (run / "diffusers" / "README.md").read_text()


@pytest.mark.parametrize(
    "change", [{"prompts": 5}, {"prompts": [1, None]}, {"grid": ["x"]}, {"columns": "a"}]
)
def test_a_damaged_evaluation_leaves_its_pictures_out(drift, run, change):
    file = run / "evaluations.jsonl"
    rows = [json.loads(line) | change for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = drift("export", run)
    assert result.exit_code == 0, result.output
    assert "README.md has no images/base.png" in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_what_no_program_on_mlx_reads_is_refused(refused, tmp_path):
    sd3 = make_adapter(tmp_path / "sd3", recipe="sd35m-pickscore-grpo")
    assert "no program on MLX loads an adapter of model.family = 'sd3'" in refused(
        2, "export", sd3.path, "--to", "mlx"
    )
    assert not (sd3.path / "mlx").exists()


# --- the hub --------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a commit needs: a repository, how files are sent, and the commit."""

    lfs = True

    def log_message(self, *words):
        pass

    def _answer(self, document, status=200):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, self.headers, body))
        return body

    def do_GET(self):
        self._body()
        self._answer({"error": "not found"}, 404)

    def do_PUT(self):
        self.server.sent.append(self._body())
        self._answer({})

    def do_POST(self):
        body, host = self._body(), f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            if self.server.refusal:
                self._answer({"error": "you may not\nwrite here"}, 403)
                return
            name = json.loads(body)
            full = f"{name.get('organization') or 'me'}/{name['name']}"
            self._answer({"url": f"{host}/{full}", "id": full})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{host}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self.server.commit = [json.loads(line) for line in body.splitlines()]
            address = f"{host}/me/night/commit/{'1' * 40}"
            self._answer({"commitUrl": address, "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"error": self.path}, 404)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub on this machine, and a login for it."""
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.sent, server.commit, server.refusal = [], [], [], False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_push_lists_the_files_and_sends_nothing(drift, run, hub):
    result = drift("push", run, "me/night")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    size = (run / "diffusers" / FILES["diffusers"]).stat().st_size
    assert [FILES["diffusers"], f"{size:,}"] in lines
    assert result.stdout.splitlines()[-1].endswith("to me/night; look at the card, then add --yes")
    assert hub.asked == []


def test_with_yes_the_files_of_the_export_and_no_others_are_uploaded(drift, run, hub):
    (run / "diffusers").mkdir()
    (run / "diffusers" / "notes.txt").write_text("private")
    result = drift("push", run, "me/night", "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith("uploaded: http://127.0.0.1:")
    created = next(json.loads(body) for _, path, _, body in hub.asked if path.endswith("create"))
    assert "private" in (created.get("visibility"), "private" if created.get("private") else "")
    head, *entries = hub.commit
    assert head["value"]["summary"] == "Adapter of night for diffusers"
    named = {entry["value"]["path"] for entry in entries}
    assert named == {FILES["diffusers"], "README.md", *PICTURES}
    assert hub.sent == [(run / "diffusers" / FILES["diffusers"]).read_bytes()]
    tokens = {path: headers["Authorization"] for _, path, headers, _ in hub.asked}
    named = [
        token for path, token in tokens.items() if re.search("create$|/commit/|/preupload/", path)
    ]
    assert named == ["Bearer hf_of_a_test"] * 3
    assert {tokens[path] for path in tokens if path.startswith("/upload/")} == {None}


def test_a_push_that_fails_is_one_line(drift, refused, run, hub, monkeypatch):
    hub.refusal = True
    line = refused(1, "push", run, "me/night", "--yes")
    assert line.startswith("drift: the hub: ")
    assert "you may not write here" in line
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached" in refused(1, "push", run, "me/night", "--yes")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "`hf auth login` makes one" in refused(2, "push", run, "me/night", "--yes")


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a b", "", "a/", "https://x/y", "-x"])
def test_what_is_no_repository_is_refused(drift, run, name):
    result = drift("push", run, "--", name) if name.startswith("-") else drift("push", run, name)
    assert result.exit_code == 2
    assert "is no repository of the hub: write OWNER/NAME" in result.stderr
    assert not (run / "diffusers").exists()
