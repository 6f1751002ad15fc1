"""The network guard holds in pytest, in notebook kernels and in launched scripts."""

import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import nbformat
import pytest
from nbclient import NotebookClient
from sitecustomize import NetworkRefused

OUTSIDE = "192.0.2.1"  # reserved for documentation: nothing answers there, so a hole in the guard is a long wait
ATTEMPT = f"""
import socket
try:
    socket.create_connection(("{OUTSIDE}", 80), timeout=0.2)
except OSError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("host", [OUTSIDE, "example.org", "2001:db8::1", b"example.org", "0.0.0.0"])
def test_a_connection_to_another_machine_is_refused(host):
    with pytest.raises(NetworkRefused, match="no network here"):
        socket.create_connection((host, 80), timeout=0.2)


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_a_bare_socket_is_refused(method):
    with socket.socket() as bare, pytest.raises(NetworkRefused, match=OUTSIDE):
        bare.settimeout(0.2)
        getattr(bare, method)((OUTSIDE, 80))


def test_a_datagram_is_refused():
    with socket.socket(type=socket.SOCK_DGRAM) as bare, pytest.raises(NetworkRefused, match=OUTSIDE):
        bare.sendto(b"x", (OUTSIDE, 53))


@pytest.mark.parametrize("lookup", [socket.gethostbyname, lambda host: socket.getaddrinfo(host, 443)])
def test_a_name_is_not_looked_up(lookup):
    with pytest.raises(NetworkRefused, match=r"example\.org"):
        lookup("example.org")


def test_a_download_fails_as_it_does_offline():
    with pytest.raises(urllib.error.URLError, match="no network here"):
        urllib.request.urlopen("https://example.org/", timeout=1)


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
        answer.start()
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            assert client.recv(5) == b"hello"
        answer.join()


def test_the_guard_holds_in_a_launched_script():
    script = subprocess.run([sys.executable, "-c", ATTEMPT], capture_output=True, text=True, check=True)
    assert script.stdout.startswith("NetworkRefused no network here")


def test_the_guard_holds_in_a_notebook_kernel():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ATTEMPT)])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert notebook.cells[0].outputs[0].text.startswith("NetworkRefused no network here")
