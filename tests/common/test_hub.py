"""The hub's client is quiet, and is not asked where the hub is out of reach."""

import logging

import pytest

from common import hub, pipelines

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.mark.parametrize(("accepts", "offline"), [(True, False), (False, True)])
def test_within_it_the_client_is_quiet_and_offline_without_a_hub(accepts, offline, monkeypatch):
    from huggingface_hub import constants

    log = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_accepts", lambda _: accepts)
    before = log.level
    with hub.asked("a/b"):
        assert constants.HF_HUB_OFFLINE is offline
        assert log.level == logging.ERROR
    assert constants.HF_HUB_OFFLINE is False
    assert log.level == before


def test_what_cannot_be_fetched_is_one_line_at_once(monkeypatch, capfd):
    monkeypatch.setattr(hub, "_accepts", lambda _: False)
    with pytest.raises(ValueError, match=r"'a/b' is not a folder here nor in the cache, and the"):
        pipelines.index("a/b")
    loading = pytest.importorskip("drift_torch.rewards.loading")
    with pytest.raises(ValueError, match="and the hub cannot be reached; download them where"):
        loading.weights("a/b:c.pt")

    class Model:
        """As transformers, which raises another error from the hub's."""

        @staticmethod
        def from_pretrained(name):
            try:
                huggingface_hub.hf_hub_download(name, "config.json")
            except OSError as error:
                raise OSError("We couldn't connect to 'https://huggingface.co' to load") from error

    with pytest.raises(ValueError, match="and the hub cannot be reached; download them where"):
        loading.pretrained(Model, "a/b")
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_is_refused_is_no_hub(monkeypatch):
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    assert not hub._accepts("http://127.0.0.1:9")
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"https": "http://proxy:1"})
    assert hub._accepts("http://127.0.0.1:9")


def test_for_a_folder_of_this_machine_the_hub_is_not_asked(tmp_path, monkeypatch):
    def probed(address):
        raise AssertionError(f"{address} was asked for a connection")

    monkeypatch.setattr(hub, "_accepts", probed)
    with hub.asked(str(tmp_path)), pipelines.load_errors_in_one_line(str(tmp_path)):
        pass
