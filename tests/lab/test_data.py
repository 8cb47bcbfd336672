"""Data files: found, fetched from a server on this machine, and checked."""

import concurrent.futures
import hashlib
import http.server
import io
import stat
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from jaxlstm.lab import UserError
from jaxlstm.lab.data import DataFile, find_file, hash_file

TEXT = b"To be, or not to be:\nthat is the question.\n" * 40
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE HTML><title>Gone</title>"


class Server(http.server.ThreadingHTTPServer):
    """Serves what it is given, and remembers what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, bytes] = {}
        self.requests: list[str] = []
        # What is said of a body's length, where it is not the truth.
        self.claim: int | None = None
        self.before_answer = lambda: None

    def url(self, name: str, body: bytes) -> str:
        """Serves a body under a name, and returns its address."""
        self.bodies[f"/{name}"] = body
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.requests.append(self.path)
        server.before_answer()
        body = server.bodies.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(server.claim or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine, which is not asked for through a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, not yet made; JAXLSTM_DATA is not set."""
    monkeypatch.delenv("JAXLSTM_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "jaxlstm"


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that JAXLSTM_DATA names."""
    folder = tmp_path / "named"
    folder.mkdir()
    monkeypatch.setenv("JAXLSTM_DATA", str(folder))
    return folder


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def text_file(url: str | None, **options) -> DataFile:
    defaults = {"name": "text.txt", "hash": digest(TEXT), "size": len(TEXT)}
    return DataFile(url=url, **{**defaults, **options})


def refusal(file: DataFile) -> str:
    """Returns the one line with which a file is refused."""
    with pytest.raises(UserError) as caught:
        find_file(file)
    (line,) = str(caught.value).splitlines()
    return line


def zipped(members: dict[str, bytes], *, mode: int = 0) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = mode << 16
            archive.writestr(entry, body)
    return packed.getvalue()


def tarred(members: dict[str, bytes], *, kind: bytes = tarfile.REGTYPE) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, body in members.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "other"
            entry.size = len(body) if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
def test_fetched_once(server, cache, algorithm):
    file = text_file(server.url("there", TEXT), hash=digest(TEXT, algorithm))
    assert find_file(file) == find_file(file) == cache / "text.txt"
    assert (cache / "text.txt").read_bytes() == TEXT
    assert server.requests == ["/there"]
    assert list(cache.iterdir()) == [cache / "text.txt"]


def test_named_folder_comes_first(server, cache, named):
    file = text_file(server.url("there", TEXT))
    (named / "text.txt").write_bytes(TEXT)
    assert find_file(file) == named / "text.txt"
    assert server.requests == [] and not cache.exists()

    # What it lacks comes from the cache, and is fetched into that.
    (named / "text.txt").unlink()
    assert find_file(file) == find_file(file) == cache / "text.txt"
    assert len(server.requests) == 1 and list(named.iterdir()) == []


def test_another_file_is_refused_and_not_fetched_over(server, cache, named):
    file = text_file(server.url("there", TEXT))
    cache.mkdir(parents=True)
    (cache / "text.txt").write_bytes(b"damaged")
    damaged, right = (digest(data).partition(":")[2] for data in (b"damaged", TEXT))
    hashes = f"is another file: its sha256 is {damaged}, not {right}"
    assert refusal(file) == (
        f"{cache / 'text.txt'}: {hashes}; delete it to have it fetched anew"
    )
    (named / "text.txt").write_bytes(b"damaged")
    remedy = "replace it, or unset JAXLSTM_DATA to have it fetched"
    assert refusal(file) == f"{named / 'text.txt'}: {hashes}; {remedy}"
    for content, fault in [
        (b"", "is empty"),
        (PAGE, "is an HTML page in place of data"),
    ]:
        (named / "text.txt").write_bytes(content)
        assert refusal(file) == f"{named / 'text.txt'}: {fault}; {remedy}"
    (named / "text.txt").unlink()
    (named / "text.txt").mkdir()
    assert "text.txt: cannot be read: Is a directory; replace" in refusal(file)
    assert server.requests == []
    assert (cache / "text.txt").read_bytes() == b"damaged"


def test_link_to_nothing_is_named(named):
    (named / "text.txt").symlink_to("nowhere")
    assert "text.txt: cannot be read: No such file" in refusal(text_file(None))


def test_html_with_the_right_hash_is_data(named):
    (named / "page").write_bytes(PAGE)
    file = DataFile(name="page", hash=digest(PAGE))
    assert find_file(file) == named / "page"


def test_without_a_hash_only_what_is_at_hand_is_taken(server, cache, named):
    file = text_file(server.url("there", TEXT), hash=None)
    line = refusal(file)
    assert line.startswith("text.txt: not found, and not fetched, for its hash is not")
    assert line.endswith(
        f"put it at {cache / 'text.txt'}, or as text.txt in a folder that "
        "JAXLSTM_DATA names"
    )
    assert server.requests == []
    (named / "text.txt").write_bytes(TEXT)
    assert find_file(file) == named / "text.txt"
    (named / "text.txt").write_bytes(PAGE)
    assert "is an HTML page" in refusal(file)


def test_without_an_address_the_way_to_it_is_said(cache, named):
    file = text_file(None, note="ask the library")
    way = (
        f"ask the library, put it at {cache / 'text.txt'}, or as text.txt in a "
        "folder that JAXLSTM_DATA names"
    )
    assert refusal(file) == f"text.txt: not found; {way}"
    (named / "text.txt").write_bytes(b"")
    assert (
        refusal(file) == f"{named / 'text.txt'}: is empty; replace it: ask the library"
    )
    assert refusal(text_file(None)).endswith("text.txt: is empty; replace it")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_variable_that_names_no_folder(server, tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXLSTM_DATA", name)
    assert refusal(text_file(server.url("there", TEXT))) == (
        f"JAXLSTM_DATA = {name}: not a folder; name the one that holds the data, or "
        "unset the variable"
    )
    assert server.requests == []


def test_empty_variable_is_no_variable(server, cache, monkeypatch):
    monkeypatch.setenv("JAXLSTM_DATA", "")
    assert find_file(text_file(server.url("there", TEXT))).parent == cache


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"other", f"what came is another file: its sha256 is "
         f"{hashlib.sha256(b'other').hexdigest()}, not "
         f"{hashlib.sha256(TEXT).hexdigest()}"),
        (TEXT + b"!", f"what came is longer than {len(TEXT):,} bytes"),
        (PAGE, "what came is an HTML page in place of data"),
        (b"", "what came is empty"),
    ],
    ids=["other", "longer", "page", "empty"],
)  # fmt: skip
def test_what_came_is_not_believed(server, cache, body, fault):
    url = server.url("there", body)
    assert refusal(text_file(url)) == (
        f"{url}: {fault}; fetch it by hand, put it at {cache / 'text.txt'}, or as "
        "text.txt in a folder that JAXLSTM_DATA names"
    )
    assert list(cache.iterdir()) == []
    # Nothing is remembered of it either.
    server.url("there", TEXT)
    assert find_file(text_file(url)) == cache / "text.txt"


def test_failed_downloads_leave_nothing(server, cache):
    url = server.url("there", TEXT)
    server.claim = len(TEXT) + 1
    line = refusal(text_file(url))
    assert line.startswith(f"{url}: cannot be fetched: the connection broke off; fetch")
    server.claim = None
    line = refusal(text_file(f"{url}-not"))
    assert line.startswith(f"{url}-not: cannot be fetched: 404 Client Error: Not Found")
    server.shutdown()
    server.server_close()
    line = refusal(text_file(url))
    assert line.startswith(f"{url}: cannot be fetched: no connection; fetch")
    assert str(cache / "text.txt") in line
    line = refusal(text_file("file:///text.txt"))
    assert line.startswith("file:///text.txt: cannot be fetched: InvalidSchema")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("name", ["there", "missing"])
def test_answers_are_closed(server, monkeypatch, name):
    closed = []
    close = requests.Response.close

    def note(answer):
        closed.append(answer.status_code)
        close(answer)

    monkeypatch.setattr(requests.Response, "close", note)
    url = server.url("there", TEXT).replace("there", name)
    if name == "there":
        find_file(text_file(url))
    else:
        refusal(text_file(url))
    assert closed == [200 if name == "there" else 404]


def test_interrupted_download_leaves_nothing(server, cache, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxlstm.lab.download._Bounded.write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            find_file(text_file(server.url("there", TEXT)))
    assert list(cache.iterdir()) == []


def test_cache_that_cannot_be_written(server, cache):
    cache.parent.write_text("")
    line = refusal(text_file(server.url("there", TEXT)))
    assert line.startswith(f"{cache / 'text.txt'}: cannot be written: Not a directory;")
    assert server.requests == []


def test_two_at_the_same_time(server, cache):
    both = threading.Barrier(2, timeout=30)
    server.before_answer = both.wait
    file = text_file(server.url("there", TEXT))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(find_file, [file, file]))
    assert found == [cache / "text.txt"] * 2
    assert len(server.requests) == 2
    assert list(cache.iterdir()) == [cache / "text.txt"]
    assert (cache / "text.txt").read_bytes() == TEXT


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_one_member_is_unpacked(server, cache, tmp_path, pack):
    body = pack({"../evil": b"x", "in/text": TEXT, "/evil": b"x", "other": PAGE})
    before = set(tmp_path.rglob("*"))
    file = text_file(server.url("archive", body), member="in/text")
    assert find_file(file).read_bytes() == TEXT
    new = {cache.parent, cache, cache / "text.txt"}
    assert set(tmp_path.rglob("*")) - before == new
    assert find_file(file) and len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (zipped({"other": TEXT}), "the archive has no text"),
        (tarred({"other": TEXT}), "the archive has no text"),
        (zipped({"text": b"/etc/passwd"}, mode=stat.S_IFLNK), "text in the archive is"),
        (tarred({"text": b"", "other": TEXT}, kind=tarfile.SYMTYPE), "text in the ar"),
        (tarred({"other": TEXT, "text": b""}, kind=tarfile.LNKTYPE), "text in the ar"),
        (zipped({"text": TEXT})[:-40], "the archive cannot be unpacked: "),
        (tarred({"text": TEXT})[:-40], "the archive cannot be unpacked: "),
        (zipped({"text": b"other"}), "what came is another file: its sha256 is "),
        (PAGE, "what came is an HTML page in place of an archive"),
        (TEXT, "what came is neither zip nor tar.gz"),
        (b"", "what came is neither zip nor tar.gz"),
    ],
    ids=["no zipped", "no tarred", "zipped link", "tarred link", "hard link",
         "cut zip", "cut tar", "another member", "page", "text", "empty"],
)  # fmt: skip
def test_archives_that_are_refused(server, cache, body, fault):
    url = server.url("archive", body)
    line = refusal(text_file(url, member="text"))
    assert line.startswith(f"{url}: {fault}")
    assert line.endswith(
        f"; fetch it by hand, take text out of it, put it at {cache / 'text.txt'}, "
        "or as text.txt in a folder that JAXLSTM_DATA names"
    )
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_bomb_is_unpacked_to_its_limit_only(server, pack, monkeypatch):
    from jaxlstm.lab import download

    written = []
    write = download._Bounded.write

    def note(bounded, chunk):
        count = write(bounded, chunk)
        written.append((Path(bounded.stream.name).name, count))
        return count

    monkeypatch.setattr(download._Bounded, "write", note)
    url = server.url("bomb", pack({"text": bytes(1 << 24)}))
    tracemalloc.start()
    line = refusal(text_file(url, member="text", size=100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert line.startswith(f"{url}: what came is longer than 100,000 bytes")
    assert 0 < sum(n for name, n in written if name == "member") <= 100_000
    assert peak < 5e6


@pytest.mark.parametrize("member", [None, "text"])
def test_text_is_cleaned_before_it_is_hashed(server, member):
    raw = b"\xef\xbb\xbf" + TEXT.replace(b"\n", b"\r\n") + b"\r\n"
    kept = TEXT.rstrip()
    url = server.url("raw", zipped({"text": raw}) if member else raw)
    options = {"hash": digest(kept), "size": len(kept), "member": member}
    file = text_file(url, **options, normalise_newlines=True, strip_ends=True)
    assert find_file(file).read_bytes() == kept


def test_each_cleaning_by_itself(server):
    raw = b"\xef\xbb\xbfa\r\nb\rc\n\r\n "
    for name, kept in [
        ("normalise_newlines", b"\xef\xbb\xbfa\nb\rc\n\n "),
        ("strip_ends", b"a\r\nb\rc"),
    ]:
        file = DataFile(
            name=name, url=server.url("raw", raw), hash=digest(kept), **{name: True}
        )
        assert find_file(file).read_bytes() == kept


def test_hash_takes_no_memory(tmp_path):
    path = tmp_path / "zeros"
    with path.open("wb") as stream:
        stream.truncate(1 << 26)
    tracemalloc.start()
    found = hash_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == hashlib.sha256(bytes(1 << 26)).hexdigest()
    assert peak < 2e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../text"}, "not the name of a file"),
        ({"name": ".."}, "not the name of a file"),
        ({"name": "in\\text"}, "not the name of a file"),
        ({"hash": "crc32:00000000"}, "not sha256:, sha1: or md5:"),
        ({"hash": "sha256:" + "A" * 64}, "not sha256:, sha1: or md5:"),
        ({"member": "../text"}, "leads out of the archive"),
        ({"member": "/text"}, "leads out of the archive"),
        ({"member": "text", "size": None}, "needs a size"),
    ],
)
def test_descriptions_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        text_file(None, **options)


@pytest.mark.parametrize("options", [{"member": "text"}, {"size": None}])
def test_a_body_without_end_is_cut_off(server, cache, monkeypatch, options):
    from jaxlstm.lab import data

    monkeypatch.setattr(data, "MOST", 100_000)
    url = server.url("endless", b"")
    sent = []

    def send_on(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        # Up to 1 GB, should nobody hang up.
        while len(sent) < 1000:
            handler.wfile.write(bytes(1_000_000))
            sent.append(1_000_000)

    monkeypatch.setattr(Handler, "do_GET", send_on)
    monkeypatch.setattr(server, "handle_error", lambda *_: None)
    line = refusal(text_file(url, **options))

    assert line.startswith(f"{url}: what came is longer than 100,000 bytes; ")
    assert sum(sent) < 100_000_000
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_falls_silent_is_not_waited_for(
    server, cache, monkeypatch, begun
):
    from jaxlstm.lab import download

    monkeypatch.setattr(download, "SECONDS", 0.2)
    url = server.url("silent", TEXT)
    done = threading.Event()

    def fall_silent(handler: Any) -> None:
        if begun:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(TEXT)))
            handler.end_headers()
            handler.wfile.write(TEXT[:100])
        done.wait(20)

    monkeypatch.setattr(Handler, "do_GET", fall_silent)
    try:
        line = refusal(text_file(url))
    finally:
        done.set()

    assert line.startswith(f"{url}: cannot be fetched: no answer in 0.2 s; ")
    assert list(cache.iterdir()) == []


def test_what_stands_before_a_member_is_unpacked_to_a_limit_only(server, monkeypatch):
    from jaxlstm.lab import download

    monkeypatch.setattr(download, "MOST", 1_000_000)
    url = server.url("bomb", tarred({"other": bytes(1 << 24), "text": TEXT}))
    tracemalloc.start()
    line = refusal(text_file(url, member="text"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert line.startswith(f"{url}: the archive is longer than 1,000,000 bytes, unpa")
    assert peak < 5e6


def test_a_header_that_is_a_bomb_takes_no_memory(server, monkeypatch):
    from jaxlstm.lab import download

    monkeypatch.setattr(download, "MOST", 1_000_000)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("text")
        entry.pax_headers = {"comment": "0" * (1 << 25)}
        tar.addfile(entry)
    url = server.url("bomb", packed.getvalue())
    tracemalloc.start()
    line = refusal(text_file(url, member="text"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert line.startswith(f"{url}: the archive is longer than 1,000,000 bytes, unpa")
    assert peak < 5e6


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_not_unpacked(server, cache, kind):
    url = server.url("archive", tarred({"text": b""}, kind=kind))
    line = refusal(text_file(url, member="text"))

    assert line.startswith(f"{url}: text in the archive is no plain file")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(server, cache, method):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("text", TEXT)
    url = server.url("archive", packed.getvalue())
    line = refusal(text_file(url, member="text"))

    assert line.startswith(f"{url}: text in the archive is not packed by deflate")
    assert list(cache.iterdir()) == []
