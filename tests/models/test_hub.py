"""Models of the hub: known by their content as directories are, and held to the hub's hashes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_hub import lead, offline, served
from helpers_models import make_gpt2, values
from safetensors.torch import load_file, save_file

from universal_ray.errors import MissingError, ModelError
from universal_ray.models.capture import Capture
from universal_ray.models.source import check_files, is_here, prefetch, resolve

TOKENS_BP = torch.arange(20).reshape(2, 10)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Weights of more bytes than the hub keeps without their sha256."""
    return make_gpt2(tmp_path_factory.mktemp("gpt2"), seed=0, layers=2, width=32, context=24)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("small"), seed=0, layers=1, width=8, context=24)


@pytest.fixture
def hub(gpt2, small, tmp_path, monkeypatch):
    """`me/first` and `me/second` have the same weights, so do two revisions of `me/first`."""
    directory = Path(shutil.copytree(gpt2, tmp_path / "files"))
    (directory / "optimizer.pt").write_bytes(b"not asked for")
    (directory / "README.md").write_text("A model card.")
    repositories = {
        "me/first@main": directory, "me/first@step1": gpt2, "me/second@main": gpt2,
        "me/small@main": small,
    }  # fmt: skip
    with served(repositories) as running:
        lead(running.url, tmp_path / "cache", monkeypatch)
        running.files = directory  # type: ignore[attr-defined]
        yield running


def test_a_hub_model_is_known_by_its_content_without_a_download(hub, gpt2, monkeypatch):
    names = ("me/first", "me/first@step1", "me/second", str(gpt2))
    sources = [resolve(name) for name in names]
    assert len({source.identity for source in sources}) == 1
    assert len({source.files for source in sources}) == 1
    held = (gpt2 / name for name in ("config.json", "model.safetensors"))
    assert {source.size for source in sources} == {sum(path.stat().st_size for path in held)}
    assert [is_here(source) for source in sources] == [False, False, False, True]
    fetched = [path for path in hub.asked if path.startswith("GET") and "/resolve/" in path]
    assert not any("optimizer" in path or "README" in path for path in fetched)
    snapshot = Path(prefetch(sources[0]))
    assert [is_here(source) for source in sources] == [True, False, False, True]
    assert sorted(path.name for path in snapshot.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(*(values(Capture(each), TOKENS_BP) for each in (sources[0], sources[3])))
    offline(monkeypatch)
    assert resolve("me/first") == sources[0]


def test_weights_are_not_downloaded_to_resolve_them(hub, tmp_path):
    resolve("me/first")
    cache = tmp_path / "cache" / "models--me--first" / "snapshots"
    assert [path.name for path in cache.glob("*/*")] == ["config.json"]


def test_small_weights_without_a_sha256_are_fetched_and_hashed(hub, small, monkeypatch):
    source = resolve("me/small")
    assert source.identity == resolve(str(small)).identity
    offline(monkeypatch)
    assert resolve("me/small").identity == source.identity


def test_a_flipped_byte_of_the_cache_is_never_loaded(hub, monkeypatch):
    source = resolve("me/first")
    path = Path(prefetch(source)) / "model.safetensors"
    assert path.is_symlink()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    for each in (source, resolve("me/first")):
        with pytest.raises(ModelError) as error:
            Capture(each)
        assert f"{path.resolve()} was damaged" in str(error.value)
        with pytest.raises(ModelError, match="was damaged"):
            check_files(each)
    path.resolve().unlink()  # as the sentence says
    Capture(source)
    assert check_files(source) == str(path.parent)


def test_weights_on_the_hub_that_are_not_the_model_are_refused_before_a_download(hub, tmp_path):
    path = hub.files / "model.safetensors"
    state = load_file(path)
    del state["transformer.h.1.mlp.c_fc.weight"]
    save_file(state, path)
    with pytest.raises(ModelError, match=r"lack transformer\.h\.1\.mlp\.c_fc\.weight"):
        resolve("me/first")
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_part_that_the_hub_lacks_is_refused(hub):
    (hub.files / "model.safetensors").rename(hub.files / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (hub.files / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        resolve("me/first")


@pytest.mark.parametrize("name", ["me/none", "me/first@none"])
def test_what_the_hub_does_not_have_is_missing(hub, name):
    with pytest.raises(MissingError, match="check spelling and revision"):
        resolve(name)
