"""The network guard: every Python process with this folder on PYTHONPATH can reach its own machine and nothing else.

Python imports a module of this name at its start, so the guard holds in pytest, in notebook kernels and in scripts
that they launch. A refusal is a ConnectionRefusedError: what runs without a network sees what it would see offline.
"""

import ipaddress
import socket

LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname()}


class NetworkRefused(ConnectionRefusedError):
    """A test, a notebook or a script tried to reach another machine."""


def text(host):
    """The host as a string."""
    return host.decode() if isinstance(host, bytes) else str(host)


def refuse_unless_local(host, *, name_is_enough=False):
    """Raise NetworkRefused unless the host is this machine: a loopback address, or a local name where that will do."""
    host = text(host).partition("%")[0]
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host in LOCAL_NAMES if name_is_enough else host in LOCAL_NAMES - {"", socket.gethostname()}
    if not local:
        raise NetworkRefused(f"no network here: a connection to {host!r} was refused; only loopback is allowed")


def guarded_method(original):
    """A socket method whose last positional argument that is a tuple is an internet address."""

    def method(self, *arguments):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            for argument in arguments:
                if isinstance(argument, tuple) and len(argument) in (2, 4):
                    refuse_unless_local(argument[0])
        return original(self, *arguments)

    return method


def guarded_lookup(original):
    """A function that looks up its first argument, a host name; None means this machine."""

    def lookup(host, *arguments, **options):
        if host is not None:
            refuse_unless_local(host, name_is_enough=True)
        return original(host, *arguments, **options)

    return lookup


def install():
    """Replace what opens connections and looks up names; a second call changes nothing."""
    if getattr(socket, "_guarded", False):
        return
    socket._guarded = True
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, guarded_method(getattr(socket.socket, name)))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
        setattr(socket, name, guarded_lookup(getattr(socket, name)))


install()
