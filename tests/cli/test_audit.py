"""`drift audit` and `drift rewards NAME | serve` as a user calls them."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest


def test_an_audit_makes_a_page_and_prints_its_results(drift, finished):
    config = finished / "config.toml"
    features = 'features = ["embedded_heldout", "embedded"]'
    config.write_text(config.read_text().replace('features = "embedded_heldout"', features))
    result = drift("audit", finished, "--images", 2, "--scorer", "jpeg_compressibility")
    assert result.exit_code == 0, result.output
    assert re.search(r"^diversity in embedded_heldout: 0\.\d+ to 0\.\d+$", result.output, re.M)
    assert re.search(r"^diversity in embedded: .* \(these features shape", result.output, re.M)
    assert "embedded, held out" in result.output
    assert re.search(r"^(fine|suspicious|alarming): ", result.output, flags=re.MULTILINE)
    page = finished / "audit-000002.html"
    text = page.read_text()
    assert str(page) in result.output.replace("\n", "")
    assert "Where scorers disagree most" in text
    assert text.count("<img") == 2 * 4  # both sides of two images of two prompts
    again = drift("audit", finished, "--images", 2, "--scorer", "jpeg_compressibility", "--json")
    assert page.read_text() == text
    document = json.loads(again.output)
    assert document["diversity_in"].keys() == {"embedded_heldout", "embedded"}
    assert document["diversity"] == document["diversity_in"]["embedded_heldout"]
    assert document["shaping"] == ["embedded"]
    assert document["verdict"] in ("fine", "suspicious", "alarming")
    assert set(document["effects"]) >= {"reward", "embedded, held out", "jpeg_compressibility"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scorer", "embedded"], "reward 'embedded' is maximised by the run"),
        (["--scorer", "jpeg_compresibility"], "did you mean 'jpeg_compressibility'"),
        (["--checkpoint", "7"], "no checkpoint after update 7"),
    ],
)
def test_a_wrong_request_is_one_line(refused, finished, words, says):
    assert says in refused(2, "audit", finished, *words)


def test_one_reward_is_printed_in_full(drift, refused):
    text = drift("rewards", "ocr").output
    for words in ("strict", "Apache-2.0", "in the wheel of rapidocr", "flow_grpo: text that"):
        assert words in text
    (info,) = json.loads(drift("rewards", "pickscore", "--json").output)["rewards"]
    assert [name for name, _ in info["scalings"]] == ["/26", "cos", "(s-18)/8"]
    assert "did you mean 'pickscore'" in refused(2, "rewards", "pickscor")
    assert "dinov2" in drift("rewards", "--features").output


def test_serving_asks_for_a_token_where_others_can_reach_it(refused, monkeypatch):
    line = refused(2, "rewards", "serve", "ocr", "--host", "0.0.0.0", "--backend", "cpu")
    assert "needs a token, in the environment variable DRIFT_REWARD_TOKEN" in line
    line = refused(2, "rewards", "serve", "ocr", "--token-env", "NO_SUCH_VARIABLE")
    assert "NO_SUCH_VARIABLE: that environment variable is not set" in line
    assert "write KEY=VALUE" in refused(2, "rewards", "serve", "ocr", "--set", "rule")
    monkeypatch.setenv("DRIFT_OTHER", "s3cret\n")
    line = refused(2, "rewards", "serve", "ocr", "--token-env", "DRIFT_OTHER")
    assert "DRIFT_OTHER cannot be sent: it holds a space, a line end" in line
    assert "s3cret" not in line


def test_a_server_answers_and_ends_at_ctrl_c(tmp_path):
    words = ["rewards", "serve", "jpeg_compressibility", "--port", "0", "--backend", "cpu"]
    command = [sys.executable, "-c", "from common.cli import main; main()", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as server:
        try:
            assert server.stdout is not None
            lines = [server.stdout.readline() for _ in range(3)]
            (url,) = re.findall(r"http://\S+", "".join(lines))
            with urllib.request.urlopen(f"{url}/v1/info", timeout=300) as answer:
                assert json.load(answer)["name"] == "jpeg_compressibility"
            server.send_signal(signal.SIGINT)
            output, errors = server.communicate(timeout=300)
            assert (server.returncode, errors) == (0, "")
            assert "stopped; 0 images scored" in output
        finally:
            server.kill()
