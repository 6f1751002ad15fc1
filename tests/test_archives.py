"""Fashion-MNIST and CIFAR-10: parsers against files written here, the download against a server on the loopback."""

import gzip
import hashlib
import io
import socket
import struct
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from minidiff.data import archives, cifar10, fashion_mnist
from minidiff.data.archives import parse_cifar, parse_idx
from minidiff.data.download import fetch

CONTENT = bytes(torch.randint(256, (300_000,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; `ranges` says whether it honours Range, `stop_after` cuts an answer short."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.ranges, self.stop_after, self.asked = {}, True, None, []
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path[1:])
        wanted = self.headers.get("Range") if self.server.ranges else None
        self.server.asked.append(self.headers.get("Range"))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if content is None or start >= len(content):
            return self.send_error(404 if content is None else 416)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start : self.server.stop_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    server.files["a"] = CONTENT
    for _ in range(2):
        path = fetch(server.url + "a", tmp_path / "new" / "a", md5(CONTENT))
        assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert list(path.parent.iterdir()) == [path]  # no part is left


def test_an_interrupted_download_is_resumed(server, tmp_path):
    server.files["a"], server.stop_after = CONTENT, 100_000
    with pytest.raises(ConnectionError, match=r"stopped after 100000 of 300000 bytes.*continues at the next call"):
        fetch(server.url + "a", tmp_path / "a", md5(CONTENT))
    assert not (tmp_path / "a").exists()
    server.stop_after = None
    assert fetch(server.url + "a", tmp_path / "a", md5(CONTENT)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_without_ranges_is_asked_for_the_whole(server, tmp_path):
    server.files["a"], server.ranges = CONTENT, False
    (tmp_path / "a.part").write_bytes(b"the wrong beginning")
    assert fetch(server.url + "a", tmp_path / "a", md5(CONTENT)).read_bytes() == CONTENT


def test_a_complete_part_only_needs_its_checksum(server, tmp_path):
    server.files["a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert fetch(server.url + "a", tmp_path / "a", md5(CONTENT)).read_bytes() == CONTENT


def test_a_wrong_checksum_discards_the_download(server, tmp_path):
    server.files["a"] = CONTENT
    with pytest.raises(ValueError, match=rf"arrived with MD5 {md5(CONTENT)}, expected {md5(b'')}.*discarded"):
        fetch(server.url + "a", tmp_path / "a", md5(b""))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    server.files["a"] = CONTENT
    (tmp_path / "a").write_bytes(CONTENT[:-1])
    assert fetch(server.url + "a", tmp_path / "a", md5(CONTENT)).read_bytes() == CONTENT


def test_without_a_network_the_message_says_where_the_file_belongs(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=r"could not download .*/a .*refused.*by hand: .*/a\."):
        fetch(f"http://127.0.0.1:{port}/a", tmp_path / "a", md5(b""))


def test_a_missing_file_is_reported(server, tmp_path):
    with pytest.raises(ConnectionError, match="404"):
        fetch(server.url + "nothing", tmp_path / "a", md5(b""))


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + bytes(array.flatten().tolist())


def random_bytes(*shape, below=256, seed=0):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(5,), (3, 4, 2), (0, 2, 2)])
def test_idx_round_trip(shape):
    array = random_bytes(*shape)
    assert torch.equal(parse_idx(idx(array)), array)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "begins with 00 00 08, got an empty file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "begins with 00 00 08, got 00 00 0d"),
        (b"\x00\x00\x08\x02\x00\x00\x00\x01", "2 dimensions has 12 bytes, got 8"),
        (idx(random_bytes(4))[:-1], r"shape \(4,\) holds 4 values, got 3"),
        (idx(random_bytes(4)) + b"x", r"shape \(4,\) holds 4 values, got 5"),
    ],
)
def test_idx_refuses(raw, message):
    with pytest.raises(ValueError, match=message):
        parse_idx(raw)


def test_cifar_round_trip_keeps_planes_rows_and_columns():
    images, labels = random_bytes(4, 3, 32, 32), random_bytes(4, below=10, seed=1)
    raw = b"".join(bytes([label, *image.flatten().tolist()]) for image, label in zip(images, labels, strict=True))
    got, got_labels = parse_cifar(raw)
    assert torch.equal(got, images)
    assert torch.equal(got_labels, labels.long())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "multiple of 3073 bytes long, got 0"),
        (bytes(3074), "got 3074 bytes"),
        (b"\x0a" + bytes(3072), "0…9, got 10"),
    ],
)
def test_cifar_refuses(raw, message):
    with pytest.raises(ValueError, match=message):
        parse_cifar(raw)


@pytest.fixture
def fashion_server(server, monkeypatch):
    """A small Fashion-MNIST: 6 images to train, 4 to test."""
    table = {}
    for split, prefix, n in (("train", "train", 6), ("test", "t10k", 4)):
        images, labels = random_bytes(n, 28, 28, seed=n), random_bytes(n, below=10, seed=n)
        files = {f"{prefix}-images-idx3-ubyte.gz": images, f"{prefix}-labels-idx1-ubyte.gz": labels}
        files = {name: gzip.compress(idx(array)) for name, array in files.items()}
        server.files |= files
        table[split] = {name: md5(content) for name, content in files.items()}
    monkeypatch.setattr(archives, "FASHION_MNIST_URL", server.url)
    monkeypatch.setattr(archives, "FASHION_MNIST_FILES", table)
    return server


@pytest.mark.parametrize(("split", "n"), [("train", 6), ("test", 4)])
def test_fashion_mnist_from_server_to_tensors(fashion_server, tmp_path, split, n):
    images, labels = fashion_mnist(split, tmp_path)
    assert torch.equal(((images[:, 0] + 1) * 127.5).round(), random_bytes(n, 28, 28, seed=n).float())
    assert torch.equal(labels, random_bytes(n, below=10, seed=n).long())
    assert images.shape == (n, 1, 28, 28)
    assert images.abs().max() <= 1
    asked = len(fashion_server.asked)
    assert torch.equal(fashion_mnist(split, str(tmp_path))[0], images)
    assert len(fashion_server.asked) == asked == 2


def test_fashion_mnist_needs_images_and_labels_that_match(fashion_server, monkeypatch, tmp_path):
    files = archives.FASHION_MNIST_FILES
    mixed = dict([*list(files["train"].items())[:1], *list(files["test"].items())[1:]])
    monkeypatch.setattr(archives, "FASHION_MNIST_FILES", {"train": mixed})
    with pytest.raises(ValueError, match=r"got \(6, 28, 28\) and \(4,\)"):
        fashion_mnist("train", tmp_path)


def cifar_archive(names):
    """A tar file of the given members, each with two records whose label is the member's place."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for place, name in enumerate(names):
            content = b"".join(bytes([place]) + bytes([10 * place + record]) * 3072 for record in (1, 2))
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def serve_cifar(server, monkeypatch, names):
    content = server.files["cifar-10-binary.tar.gz"] = cifar_archive(names)
    monkeypatch.setattr(archives, "CIFAR10_URL", server.url + "cifar-10-binary.tar.gz")
    monkeypatch.setattr(archives, "CIFAR10_MD5", md5(content))


def test_cifar10_from_server_to_tensors(server, monkeypatch, tmp_path):
    # Stored out of order: the batches are put together in the order of their numbers.
    names = ["test_batch.bin", "data_batch_2.bin", "data_batch_1.bin", *(f"data_batch_{i}.bin" for i in (3, 4, 5))]
    serve_cifar(server, monkeypatch, names)
    images, labels = cifar10("train", tmp_path)
    assert images.shape == (10, 3, 32, 32)
    assert labels.tolist() == [2, 2, 1, 1, 3, 3, 4, 4, 5, 5]
    levels = torch.tensor([21, 22, 11, 12, 31, 32, 41, 42, 51, 52]) / 127.5 - 1
    torch.testing.assert_close(images, levels[:, None, None, None].expand_as(images))
    assert cifar10("test", tmp_path)[1].tolist() == [0, 0]
    assert len(server.asked) == 1


def test_cifar10_with_a_part_missing_says_which(server, monkeypatch, tmp_path):
    serve_cifar(server, monkeypatch, ["data_batch_1.bin", "data_batch_2.bin"])
    with pytest.raises(ValueError, match=r"holds no data_batch_3\.bin, data_batch_4\.bin, data_batch_5\.bin"):
        cifar10("train", tmp_path)


@pytest.mark.parametrize("loader", [fashion_mnist, cifar10])
def test_loaders_know_two_splits(loader, tmp_path):
    with pytest.raises(ValueError, match="'train' or 'test', got 'all'"):
        loader("all", tmp_path)
