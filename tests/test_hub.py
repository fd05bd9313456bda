"""Fetching through the real hub libraries, from a hub on this machine."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, OLDER, HubServer

from llmarking.errors import (
    ChecksumMismatch,
    GatedModel,
    HubError,
    InputError,
    ModelUnavailable,
)
from llmarking.models import cache, hub
from llmarking.models.catalogue import ModelSpec

WEIGHTS = "model.safetensors"
SPEC = ModelSpec(
    "tiny", "org/tiny", modelscope_id="org/tiny", licence="Tiny", licence_url="https://licence.test"
)
FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}" * 100,
    "merges.txt": b"a b\n",
    "LICENSE": b"do as you like",
    WEIGHTS: random.Random(1).randbytes(300_000),
}
LEFT_ALONE = {
    "README.md": b"# tiny",
    "pytorch_model.bin": b"a pickle",
    "modeling_tiny.py": b"print('code')",
    "consolidated.safetensors": b"the same again",
    "original/tokenizer.model": b"the same again",
}
HUBS = pytest.mark.parametrize("source", ["huggingface", "modelscope"])


@pytest.fixture(autouse=True)
def quiet_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the libraries from a developer's tokens and caches."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope"))
    monkeypatch.setenv("LLMARKING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(FILES | LEFT_ALONE) as running:
        point_to(running.url, monkeypatch)
        yield running


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)


def content(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    del found[cache.MANIFEST]
    return found


@HUBS
def test_a_whole_download_brings_weights_and_text_but_no_code(
    server: HubServer, source: str
) -> None:
    folder = hub.fetch(SPEC, source, progress=False)
    assert content(folder.path) == FILES
    assert folder.source == source
    assert source != "huggingface" or folder.revision == COMMIT
    assert not any(server.transfers(name) for name in LEFT_ALONE)


def test_both_hubs_give_the_same_digest_for_the_same_files(server: HubServer) -> None:
    one, two = (hub.fetch(SPEC, source, progress=False) for source in ("huggingface", "modelscope"))
    assert one.digest == two.digest
    assert one.path != two.path


def test_code_comes_along_only_where_it_is_trusted_and_only_from_the_pinned_commit(
    server: HubServer,
) -> None:
    trusting = dataclasses.replace(SPEC, trust_remote_code=True, revision=OLDER)
    hub.fetch(SPEC, "huggingface", progress=False)  # the newest, which must not do instead
    folder = hub.fetch(trusting, "huggingface", progress=False)
    assert folder.revision == OLDER
    assert "modeling_tiny.py" in content(folder.path)
    assert "pytorch_model.bin" not in content(folder.path)
    with pytest.raises(ModelUnavailable, match="commit of Hugging Face"):
        hub.fetch(trusting, "modelscope", progress=False)
    with pytest.raises(ModelUnavailable, match=f"no commit {'0' * 40}"):
        hub.fetch(dataclasses.replace(SPEC, revision="0" * 40), "huggingface", progress=False)


@HUBS
def test_a_finished_folder_is_used_without_the_network(
    server: HubServer, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hub.fetch(SPEC, source, progress=False)
    point_to(closed_port(), monkeypatch)
    assert hub.fetch(SPEC, "auto", progress=False) == first


@HUBS
@pytest.mark.parametrize("name", [WEIGHTS, cache.MANIFEST])
def test_a_damaged_folder_is_not_used_but_fetched_anew(
    server: HubServer, source: str, name: str
) -> None:
    first = hub.fetch(SPEC, source, progress=False)
    (first.path / name).write_bytes(b"half")
    assert hub.fetch(SPEC, source, progress=False) == first
    assert content(first.path) == FILES


@HUBS
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    server: HubServer, source: str
) -> None:
    # The Hugging Face library writes ten mebibytes at a time, so the file must be larger than that.
    server.files[WEIGHTS] = random.Random(2).randbytes(12 << 20)
    server.cut[WEIGHTS] = 11 << 20
    folder = hub.fetch(SPEC, source, progress=False)
    assert (folder.path / WEIGHTS).read_bytes() == server.files[WEIGHTS]
    assert 10 << 20 <= resumed_at(server) <= 11 << 20


@HUBS
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_corrupt_file_is_refused_and_fetched_anew_the_next_time(
    server: HubServer, source: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0)
    server.altered[name] = FILES[name][:-1] + b"?"
    with pytest.raises(ChecksumMismatch, match=name):
        hub.fetch(SPEC, source, progress=False)
    assert cache.find(cache.cache_root(), [source], SPEC) is None
    server.altered.clear()
    assert content(hub.fetch(SPEC, source, progress=False).path) == FILES


@HUBS
def test_a_gated_model_names_licence_page_and_token(
    server: HubServer, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[source]
    server.token = "hf_accepted"
    with pytest.raises(GatedModel) as refusal:
        hub.fetch(SPEC, source, progress=False)
    for part in ("Tiny", "https://licence.test", f"{server.url}/", "org/tiny", variable):
        assert part in str(refusal.value)
    monkeypatch.setenv(variable, server.token)
    assert content(hub.fetch(SPEC, source, progress=False).path) == FILES
    assert not server.leaked


@HUBS
def test_an_unknown_model_is_told_apart_from_an_unreachable_hub(
    server: HubServer, source: str
) -> None:
    other = ModelSpec("other", "org/other", modelscope_id="org/other")
    with pytest.raises(ModelUnavailable, match="no public model org/other"):
        hub.fetch(other, source, progress=False)


@HUBS
def test_a_repository_of_pickles_is_refused(server: HubServer, source: str) -> None:
    del server.files[WEIGHTS], server.files["consolidated.safetensors"]
    with pytest.raises(ModelUnavailable, match="no safetensors weights"):
        hub.fetch(SPEC, source, progress=False)


@HUBS
def test_a_killed_download_is_never_taken_for_whole_and_is_gone_on_with(
    server: HubServer, source: str
) -> None:
    """A child gets SIGKILL when it said that 80 % had come, while the hub withholds the rest."""
    server.files[WEIGHTS] = random.Random(2).randbytes(25 << 20)
    server.hold[WEIGHTS] = 21 << 20
    code = (
        "from llmarking.models import hub; from llmarking.models.catalogue import ModelSpec; "
        f"hub.fetch(ModelSpec('tiny', 'org/tiny', modelscope_id='org/tiny'), {source!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=child_environment()
    ) as child:
        assert child.stderr is not None
        next(line for line in child.stderr if "80 %" in line)
        child.kill()
    server.release.set()
    assert cache.find(cache.cache_root(), [source], SPEC) is None

    folder = hub.fetch(SPEC, source, progress=False)
    assert (folder.path / WEIGHTS).read_bytes() == server.files[WEIGHTS]
    assert 10 << 20 <= resumed_at(server) <= 21 << 20
    assert len(server.transfers("config.json")) == 1
    assert sorted(path.name for path in folder.path.parent.iterdir()) == [".lock", folder.revision]


def resumed_at(server: HubServer) -> int:
    """Return the byte from which the second of two transfers of the weights went on."""
    first, second = server.transfers(WEIGHTS)
    assert first is None
    return int((second or "bytes=0-").removeprefix("bytes=").rstrip("-"))


def child_environment() -> dict[str, str]:
    root = str(Path(hub.__file__).parents[2])
    return os.environ | {"PYTHONPATH": root}


@HUBS
def test_two_at_once_download_once(server: HubServer, source: str) -> None:
    results: list[cache.ModelFolder] = []
    threads = [
        threading.Thread(target=lambda: results.append(hub.fetch(SPEC, source, progress=False)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert len(server.transfers(WEIGHTS)) == 1


def closed_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_when_nothing_is_reachable_every_source_and_what_helps_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(closed_port(), monkeypatch)
    with pytest.raises(ModelUnavailable) as failure:
        hub.fetch(SPEC, progress=False)
    lines = str(failure.value).splitlines()
    assert lines[0] == "org/tiny could not be had:"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == list(hub.SOURCES)
    assert "refused" in lines[1]
    assert "refused" in lines[2]
    assert "--source" in lines[4]


def test_a_hub_that_accepts_but_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ModelUnavailable, match=r"no answer within|timed out"):
            hub.probe(address, patience=0.2)


def test_a_name_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def hang(*_: object, **__: object) -> None:
        never.wait()
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        # It would not come back at all while the name server hangs.
        with pytest.raises(ModelUnavailable, match="no answer within"):
            hub.probe("http://hub.invalid", patience=0.2)
        assert not never.is_set()
    finally:
        never.set()


def test_any_answer_counts_as_reachable(server: HubServer) -> None:
    hub.probe(f"{server.url}/missing")


def test_a_disk_too_small_is_found_out_before_the_download(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelUnavailable, match="LLMARKING_CACHE"):
        hub.fetch(SPEC, "huggingface", progress=False)
    assert server.transfers(WEIGHTS) == []


def test_a_cache_that_cannot_be_written_is_named(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    monkeypatch.setenv("LLMARKING_CACHE", str(in_the_way))
    with pytest.raises(HubError, match=f"the cache at {in_the_way} can't be used"):
        hub.fetch(SPEC, "huggingface", progress=False)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="ftp"):
        hub.fetch(SPEC, "ftp")


def test_a_users_folder_is_used_as_it_is_and_its_digest_follows_its_content(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    spec = ModelSpec("mine", path=tmp_path)
    before = hub.fetch(spec)
    assert (before.path, before.source) == (tmp_path, "folder")
    assert hub.fetch(spec) == before
    (tmp_path / WEIGHTS).write_bytes(FILES[WEIGHTS][:-1] + b"?")
    assert hub.fetch(spec).digest != before.digest


def test_progress_is_plain_lines_where_there_is_no_terminal(
    server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.fetch(SPEC, "huggingface")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "tiny from huggingface: 0.3 MB"
    assert "there after" in lines[-1]
    assert "\r" not in err
