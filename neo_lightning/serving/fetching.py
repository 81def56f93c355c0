"""Media from hosts that were allowed: bounded in bytes and seconds, and never from this machine's own network.

A name is looked up once, and the connection goes to that very address if it is a public one: a name that answers with
another address the second time gains nothing. Redirects are not followed. No proxy of the environment is asked.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlsplit

from .body import BODY_BYTES

SECONDS = 20.0
"""For all of it."""
_PART = 1 << 16


def fetch(url: str, hosts: Collection[str]) -> bytes:
    """The bytes behind an http(s) address.

    Raises:
        ValueError: the host is not allowed or not public, or it did not deliver; says why.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if host not in hosts:
        named = f"allowed: {', '.join(sorted(hosts))}" if hosts else "none is; see --media-host"
        raise ValueError(f"media of the host {host[:80]!r} are not allowed ({named})")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a user's name in it is not fetched")
    secure = parts.scheme.lower() == "https"
    try:
        connection = _connect(host, parts.port or (443 if secure else 80), secure)
    except OSError as error:
        raise ValueError(f"{host} cannot be reached: {error}") from error
    return download(connection, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def download(connection: http.client.HTTPConnection, target: str, seconds: float = SECONDS) -> bytes:
    """The bytes of one reply of an open connection, which is closed.

    Raises:
        ValueError: another status than 200, too many bytes, or not all within these seconds.
    """
    sock, late = connection.sock, threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes whoever reads, wherever that is

    timer = threading.Timer(seconds, end)
    timer.start()
    data = bytearray()
    try:
        connection.request("GET", target, headers={"User-Agent": "neo_lightning", "Accept": "image/*, video/*"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise ValueError(f"{connection.host} answered {reply.status} (redirects are not followed)")
        while part := reply.read1(_PART):
            data += part
            if len(data) > BODY_BYTES:
                raise ValueError(f"{connection.host} sent more than {BODY_BYTES >> 20} MB")
        if reply.length:
            raise ValueError(f"{connection.host} broke off")
    except (OSError, http.client.HTTPException) as error:
        if not late.is_set():
            raise ValueError(f"{connection.host} did not deliver: {error or type(error).__name__}") from error
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():
        raise ValueError(f"{connection.host} did not deliver within {seconds:g} s")
    return bytes(data)


def public(address: str) -> bool:
    """Whether an IP address is one of the open network: no private, local, link-local, multicast or reserved one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # an IPv4 address in other clothes
        ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return False
    return ip.is_global and not ip.is_multicast


def _connect(host: str, port: int, secure: bool) -> http.client.HTTPConnection:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(public(address) for address in addresses):
        raise ValueError(f"{host} is no host of the open network")
    raw = socket.create_connection((addresses[0], port), timeout=SECONDS)
    try:
        if secure:
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=host)
    except OSError:
        raw.close()
        raise
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    connection.sock = raw
    return connection
