"""A real HTTP server on loopback that hands out a folder's files by range, and can misbehave; also as S3's two calls.

http://127.0.0.1:PORT/name.tar        s3://bucket/name.tar with endpoint http://127.0.0.1:PORT
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class ShardServer:
    """Context manager. `fail`, `short` and `page` count down the requests for content that are answered wrongly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fail = 0
        """Answers of status 503."""
        self.short = 0
        """Answers that stop half-way though they promise all."""
        self.page = 0
        """Error pages with status 200."""
        self.seconds = 0.0
        """Delay before each answer."""
        self.ranged = True
        self.requests: list[str] = []
        """Method and range of each request for content."""
        self.asked: Counter[str] = Counter()
        """Name -> requests for size and version alone."""
        self.at_once = 0
        """Most requests that were under way together."""
        self._under_way = 0
        self._counting = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A request is under way."""
        with self._counting:
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1

    @property
    def url(self) -> str:
        """Address without a slash at its end."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> ShardServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def _handler(server: ShardServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            server.asked[unquote(urlsplit(self.path).path).rpartition("/")[2]] += 1
            self._answer(content=False)

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" in query:
                self._list(query.get("prefix", [""])[0])
            else:
                self._answer(content=True)

        def _answer(self, *, content: bool) -> None:
            with server.counted():
                time.sleep(server.seconds)
            file = server.folder / unquote(urlsplit(self.path).path).rpartition("/")[2]
            if not file.is_file():
                self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            data = file.read_bytes()
            headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            status, part = 200, data
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
            if asked and server.ranged and content:
                first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
                status, part = 206, data[first : last + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            if content:
                server.requests.append(f"{self.command} {self.headers.get('Range')}")
                if server.fail:
                    server.fail -= 1
                    self._send(503, b"busy")
                    return
                if server.page:
                    server.page -= 1
                    self._send(200, b"<html>try later</html>")
                    return
                if server.short:
                    server.short -= 1
                    self._send(status, part, headers, cut=True)
                    return
            self._send(status, part, headers, head=not content)

        def _send(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, head: bool = False, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not head:
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.wfile.flush()
                self.close_connection = True

        def _list(self, prefix: str) -> None:
            """S3's ListObjectsV2 of the one folder."""
            files = [file for file in sorted(server.folder.glob("*.tar")) if file.name.startswith(prefix)]
            entries = "".join(
                f"<Contents><Key>{file.name}</Key><Size>{file.stat().st_size}</Size><ETag>&quot;"
                f"{hashlib.md5(file.read_bytes()).hexdigest()}&quot;</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                for file in files
            )
            body = (
                '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bucket</Name>'
                f"<Prefix>{prefix}</Prefix><KeyCount>{len(files)}</KeyCount><MaxKeys>1000</MaxKeys>"
                f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
            )
            self._send(200, body.encode(), {"Content-Type": "application/xml"})

    return Handler
