"""`neo-lightning serve`: a model folder behind OpenAI's chat completions, with a chat page.

The page is at the address that is printed. Clients take it with `/v1` behind it. Media come inside requests; other
places are off unless named. A stop (SIGTERM, Ctrl-C) lets answers end for 20 seconds and tells the others.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path

from .. import exits
from .errors import UserError, user_errors
from .options import Options

KEY = "NEO_LIGHTNING_API_KEY"
CACHE_TOKENS = 65536


def main(argv: list[str]) -> int:
    """Serve until asked to stop."""
    args = _parser().parse_args(argv)
    with user_errors("neo-lightning serve"):
        _serve(args)
    return exits.DONE


def _parser() -> argparse.ArgumentParser:
    parser = Options(prog="neo-lightning serve", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--model", required=True, help="model folder, such as RUN/export, or hf://owner/name")
    parser.add_argument("--name", help="of the model in requests; by default the folder's, or its run's")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=DIR", help="an adapter and its name in requests; many"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 is this machine only")
    parser.add_argument("--port", type=int, default=8000, help="8000; 0 takes a free one")
    parser.add_argument("--api-key", metavar="KEY", help=f"that requests must bring; by default ${KEY}, or none")
    parser.add_argument("--media-root", type=Path, metavar="DIR", help="file:// addresses below it are read")
    parser.add_argument(
        "--media-host", action="append", default=[], metavar="HOST", help="http(s) addresses there are fetched; many"
    )
    parser.add_argument("--device", help="default cuda where there is one, else cpu")
    parser.add_argument(
        "--cache-tokens", type=int, default=CACHE_TOKENS, metavar="N", help=f"kept at a time; {CACHE_TOKENS}"
    )
    parser.add_argument("--waiting", type=int, default=64, metavar="N", help="requests that may wait; 64")
    return parser


def _serve(args: argparse.Namespace) -> None:
    try:
        from ..serving.app import application
        from ..serving.media import Sources
        from ..serving.run import listen, serve
        from ..serving.service import Service
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"serve needs {error.name}: pip install 'neo-lightning[serve]'") from error
    from ..answering import load, put_adapter

    for name, least in (("cache_tokens", 16), ("waiting", 1)):
        if getattr(args, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, found {getattr(args, name)}")
    key = args.api_key if args.api_key is not None else os.environ.get(KEY, "")
    sources = Sources(args.media_root, tuple(args.media_host))
    name = args.name or model_name(args.model)
    adapters: dict[str, str] = {}
    for each, folder in map(_adapter, args.adapter):
        if each == name:
            raise UserError(f"--adapter {name}: the model itself is called that; see --name")
        if each in adapters:
            raise UserError(f"--adapter {each} stands there twice")
        adapters[each] = folder
    sock = listen(args.host, args.port)  # before the model is loaded: it may be taken
    engine = load(args.model, device=args.device)
    asked = {each: put_adapter(engine, folder, each) for each, folder in adapters.items()}
    local = _loopback(sock.getsockname()[0])
    if not local and not key:
        print(f"anybody who reaches {args.host} may ask: --api-key, or ${KEY}, keeps others out", file=sys.stderr)
    service = Service(
        engine,
        name=name,
        adapters=asked,
        sources=sources,
        cache_tokens=args.cache_tokens,
        waiting=args.waiting,
    )
    address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{sock.getsockname()[1]}"
    serve(
        application(service, key=key, local=local),
        service,
        sock,
        ready=lambda: print(f"{name}: {address} (clients: {address}/v1)", flush=True),
    )


def model_name(model: str) -> str:
    """What a model is called in requests: `runs/demo-0/export` is demo-0, `hf://owner/name` is owner/name."""
    if model.startswith("hf://"):
        return model.removeprefix("hf://")
    folder = Path(model).resolve()
    return folder.parent.name if folder.name == "export" and folder.parent.name else folder.name


def _adapter(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise UserError(f"--adapter must be NAME=DIR, found {text!r}")
    return name, folder


def _loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
