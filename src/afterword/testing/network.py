"""A tripwire: what claims to need no network is shown not to use one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

Attempts = list[str]


class NetworkForbidden(RuntimeError):
    """Something reached for the network. No OSError, so that no adapter takes it for an outage."""


def _is_local(host: object) -> bool:
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if name in ("", "localhost", "localhost."):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guarded(original: Callable[..., Any], attempts: Attempts, host_of: Callable[..., object]) -> Callable[..., Any]:
    @wraps(original)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        host = host_of(*args, **kwargs)
        if not _is_local(host):
            attempts.append(f"{original.__name__}({host!r})")
            raise NetworkForbidden(f"{original.__name__} to {host!r}: only loopback is allowed here")
        return original(*args, **kwargs)

    return guarded


def _peer(sock: socket.socket, address: Any) -> object:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return address[0] if isinstance(address, tuple) else address


def _addressee(sock: socket.socket, _data: Any, *rest: Any) -> object:
    return _peer(sock, rest[-1])


def _name(host: Any = None, *_: Any, **__: Any) -> object:
    return host


@contextmanager
def no_network() -> Iterator[Attempts]:
    """Raise `NetworkForbidden` where Python code connects, sends or resolves beyond loopback; Unix sockets may.

    Yields the list of attempts. One that was swallowed on its way is raised at the end. asyncio and the HTTP clients
    go through the same sockets; libraries with sockets of their own (gRPC) are not seen.
    """
    attempts: Attempts = []
    with ExitStack() as stack:
        for method, host_of in (("connect", _peer), ("connect_ex", _peer), ("sendto", _addressee)):
            guarded = _guarded(getattr(socket.socket, method), attempts, host_of)
            stack.enter_context(patch.object(socket.socket, method, guarded))
        for function in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            stack.enter_context(patch.object(socket, function, _guarded(getattr(socket, function), attempts, _name)))
        yield attempts
    if attempts:
        raise NetworkForbidden(f"swallowed on the way: {', '.join(attempts)}")
