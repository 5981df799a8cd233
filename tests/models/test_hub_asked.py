"""What the hub may answer, and what is said of it: retried where it may pass, one sentence else."""

import errno
import shutil
from email.utils import formatdate
from pathlib import Path

import pytest
import torch
from helpers_hub import Fault, lead, served, unwaited
from helpers_models import make_gpt2
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors.torch import load_file

from universal_ray.errors import HubError, MissingError, ModelError, StorageError
from universal_ray.models.source import check_files, prefetch, resolve
from universal_ray.models.tokenizer import tokenizer
from universal_ray.storage.hub import MODEL, Repository, commit_of, opened
from universal_ray.storage.hub_answers import PATIENCE, SHORT_PATIENCE, ask

NAME = "me/model@step1"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("gpt2"), seed=0, layers=2, width=32, context=24)


@pytest.fixture
def files(gpt2, tmp_path):
    return Path(shutil.copytree(gpt2, tmp_path / "files"))


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    with served({NAME: files, "me/other@main": files}) as running:
        lead(running.url, tmp_path / "cache", monkeypatch)
        yield running


@pytest.fixture
def slept(monkeypatch):
    return unwaited(monkeypatch)


def sentence(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and ". " not in text
    return text


def everything(name: str = NAME) -> str:
    """All that a run asks of the hub for a model."""
    source = resolve(name)
    tokenizer(source)
    return check_files(source)


@pytest.mark.parametrize("where", ["/revision/step1", "/config.json", "/model.safetensors"])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_for_again(hub, slept, caplog, where, status):
    hub.faults = [Fault(where, status=status, times=3)]
    everything()
    assert not any(each.times for each in hub.faults)
    assert f"it answered {status}" in caplog.text and "asked again" in caplog.text
    assert slept == sorted(slept) and 0 < sum(slept) < PATIENCE


@pytest.mark.parametrize("how", ["dropped", "truncated", "slow", "short"])
@pytest.mark.parametrize("where", ["/config.json", "/model.safetensors"])
def test_a_file_that_does_not_come_whole_is_asked_for_again(hub, slept, monkeypatch, how, where):
    if how == "slow":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.faults = [Fault(where, how, times=2, method="GET")]
    everything()
    assert not any(each.times for each in hub.faults)


def test_a_hub_that_gives_no_parts_gives_the_whole(hub, slept):
    hub.faults = [Fault("/model.safetensors", "whole")]
    everything()


def test_a_part_that_does_not_come_whole_is_asked_for_again(hub, slept):
    hub.faults = [Fault("/model.safetensors", "part", times=2, method="GET")]
    everything()
    assert len(slept) == 2


def test_a_file_on_the_hub_is_read_to_its_end(hub, files):
    with opened(Repository(MODEL, "me/model"), hub.commit(NAME), "config.json") as file:
        assert file.read() == (files / "config.json").read_bytes()
        assert file.read() == b""


def test_bars_that_someone_has_turned_off_stay_off(hub):
    place = Repository(MODEL, "me/model"), "step1"
    disable_progress_bars()
    try:
        commit_of(*place)
        assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()
    commit_of(*place)
    assert not are_progress_bars_disabled()


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "soon"}, 1),  # which is no time: as long as without
        ({"Retry-After": formatdate(2_000_000_000, usegmt=True)}, None),
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=9;w=300'}, 56),
    ],
)  # fmt: skip
def test_the_hub_says_how_long_to_wait(hub, slept, monkeypatch, headers, wait):
    monkeypatch.setattr("time.time", lambda: 2_000_000_000 - 40.0)
    hub.faults = [Fault("/revision/step1", status=429, headers=headers, times=1)]
    resolve(NAME)
    assert slept == [wait or 40]


def test_a_wait_beyond_all_patience_is_told_at_once(hub, slept):
    hub.faults = [Fault("/revision/step1", status=429, headers={"Retry-After": "86400"})]
    with pytest.raises(HubError) as error:
        resolve(NAME)
    assert "it answered 429, Too Many Requests and asks to wait 86400 s" in sentence(error)
    assert slept == []


def test_patience_ends(hub, slept):
    hub.faults = [Fault("/config.json", status=503)]
    with pytest.raises(HubError) as error:
        resolve(NAME)
    assert "it answered 503, Service Unavailable" in sentence(error)
    assert "run the same command later" in str(error.value)
    assert PATIENCE / 2 < sum(slept) <= PATIENCE


def test_a_hub_that_is_not_there_is_told_after_a_while(hub, slept, tmp_path, monkeypatch):
    lead("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    with pytest.raises(HubError) as error:
        resolve(NAME)
    assert "onnection refused" in sentence(error) and "HF_ENDPOINT" in str(error.value)
    assert SHORT_PATIENCE / 2 <= sum(slept) <= SHORT_PATIENCE
    with pytest.raises(HubError, match=r"^There is no directory 'runs/mine', and the hub did not"):
        resolve("runs/mine")


def test_without_the_hub_there_is_its_cache(hub, slept, tmp_path, monkeypatch):
    place = everything()
    for fault in (Fault("", status=503), Fault("", "dropped")):
        hub.faults = [fault]
        assert everything() == place
        assert slept == []
    lead("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    assert everything() == place


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, ["it answered 401", "ask for access"]),
        (403, {"X-Error-Code": "GatedRepo"}, ["it answered 403, Forbidden", "hf auth login"]),
        (401, {}, ["it answered 401, Unauthorized", "log in"]),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, ["401"]),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, ["it answered 403"]),
        (404, {"X-Error-Code": "RepoNotFound"}, ["it answered 404, Not Found", "check spelling"]),
        (404, {"X-Error-Code": "RevisionNotFound"}, ["it answered 404", "'step1'"]),
        (451, {}, ["it answered 451"]),
    ],
)
@pytest.mark.parametrize("where", ["/revision/step1", "/model.safetensors"])
def test_what_the_hub_does_not_show_is_told_at_once(hub, slept, status, headers, told, where):
    hub.faults = [Fault(where, status=status, headers=headers)]
    with pytest.raises(MissingError) as error:
        everything()
    text = sentence(error)
    assert all(each in text or where != "/revision/step1" for each in told[:1])
    assert "'me/model'" in text
    assert slept == []


class XetError(Exception):
    """As whatever a transport may raise, which nobody has told of before."""


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (XetError("Data processing error: CAS service error"), HubError, "CAS service error"),
        (RuntimeError("hf_xet: no token"), HubError, "HF_HUB_DISABLE_XET=1"),
        (OSError("Consistency check failed: file should be of size 3"), HubError, "of size 3"),
        (TimeoutError(), HubError, "TimeoutError"),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, "make room"),
        (PermissionError(errno.EACCES, "Permission denied"), StorageError, "HF_HOME"),
    ],
)
def test_whatever_is_raised_ends_in_one_sentence(raised, kind, told, slept):
    def call() -> None:
        raise raised

    with pytest.raises(kind) as error:
        ask("model 'a/b'", call)
    assert told in sentence(error) and "model 'a/b'" in str(error.value)
    assert bool(slept) is (kind is HubError)


def test_an_error_of_ours_and_want_of_memory_pass(slept):
    for raised in (ModelError("ours."), MemoryError()):
        with pytest.raises(type(raised)):
            ask("model 'a/b'", lambda each=raised: (_ for _ in ()).throw(each))
    assert slept == []


def test_the_client_of_the_hub_is_left_as_it_was(hub):
    from huggingface_hub.utils import get_session

    before = list(get_session().event_hooks["response"])
    resolve(NAME)
    assert get_session().event_hooks["response"] == before


def test_a_commit_by_its_first_digits(hub, slept, files):
    commit = hub.commit(NAME)
    everything(f"me/model@{commit[:7]}")
    hub.faults = [Fault("", status=503)]
    assert resolve(f"me/model@{commit[:9]}").commit == commit  # of the cache
    assert slept == []
    hub.faults = []
    other = "0" * 7 if commit[0] != "0" else "1" * 7
    with pytest.raises(MissingError, match=f"has 0 commits that begin with '{other}'"):
        resolve(f"me/model@{other}")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_of_large_weights_only_names_and_shapes_are_read(hub, files, kind, tmp_path):
    path = files / "model.safetensors"
    state = load_file(path)
    state["lm_head.large"] = torch.zeros(2**20)  # of another task, beside the model's own
    path.unlink()
    if kind == "bin":
        path = files / "pytorch_model.bin"
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    with pytest.raises(ModelError, match=r"have what a model of its config.json does not: lm_head"):
        resolve(NAME)
    assert 0 < hub.sent[path.name] < path.stat().st_size / 8
    assert [each.name for each in (tmp_path / "cache").rglob("snapshots/*/*")] == ["config.json"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("damage", ["half", "pointer", "other"])
def test_damaged_weights_on_the_hub_are_refused_before_a_download(hub, files, kind, damage):
    path = files / "model.safetensors"
    if kind == "bin":
        state = load_file(path)
        path.unlink()
        path = files / "pytorch_model.bin"
        torch.save(state, path)
    content = path.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    path.write_bytes({
        "half": content[: max(len(content) // 2, 1 << 16)], "pointer": pointer,
        "other": content[:2] + b"\xff" * (1 << 17),
    }[damage])  # fmt: skip
    with pytest.raises(ModelError) as error:
        resolve(NAME)
    assert path.name in sentence(error) and "cannot be read" in str(error.value)
    assert ("git lfs pull" in str(error.value)) is (damage == "pointer")


def test_a_fault_while_parts_are_read_is_the_hubs_and_not_the_files(hub, slept):
    hub.faults = [Fault("/model.safetensors", status=403)]
    with pytest.raises(MissingError, match="it answered 403"):
        resolve(NAME)


def test_what_lies_beside_the_weights_is_no_part_of_the_model(hub, files, gpt2, tmp_path):
    """Adapters, optimizers, other formats, what other programs left in folders."""
    identity = resolve(str(gpt2)).identity
    for name in ("adapter_model.safetensors", "optimizer.safetensors", "pytorch_model.bin",
                 "onnx/model.safetensors", "global_step1/vocab_states.model"):  # fmt: skip
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).write_bytes(b"no weights" * 10_000)
    place = Path(everything())
    fetched = {str(each.relative_to(place)) for each in place.rglob("*") if each.is_file()}
    assert fetched == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert resolve(NAME).identity == resolve(str(files)).identity == identity
    assert prefetch(resolve(str(files))) == str(files)
