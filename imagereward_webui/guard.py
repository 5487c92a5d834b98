"""Who may use our routes, and what they may send. Every router of ours is made with one of the two route classes here:

    router = APIRouter(prefix=…, route_class=GuardedRoute)   # accounts of the host, where it has any
    router = APIRouter(prefix=…, route_class=PageRoute)      # the token that lies in our own page

Both look at a request before its body is read. Browsers let any web page send requests to this machine, so where a
request comes from is checked first: browsers say it in `Origin` and `Sec-Fetch-Site`, which no page can change or
leave out. Programs send neither, and need neither. Against DNS rebinding, where a page's own name leads to this
machine, a server on loopback answers to `localhost` and IP addresses alone.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic

from . import bodies, host
from .core import logger

TOKEN = secrets.token_urlsafe(24)  # lies in our tabs, which only those who may see the UI can read
TOKEN_HEADER = "x-imagereward-token"
SETTING = "Settings > ImageReward > Trusted hosts"
DEFAULT_PORTS = {"http": 80, "https": 443}

_told: set[str] = set()  # refusals that are in the log already

# --- where a request comes from ---------------------------------------------------------------------


def refusal(request: Request) -> str:
    """Why this request is not answered, in a sentence with its remedy; "" if it comes from our page or from no page."""
    asked = request.headers.get("host", "")
    if _on_loopback() and not (_is_local(asked) or _is_own_name(asked, request) or _trusted(asked)):
        return (
            f"this WebUI answers on this machine alone, under localhost or an IP address, and was asked as {asked!r}."
            f" If that is your own proxy, add the name to {SETTING}"
        )
    origin = request.headers.get("origin", "")
    site = request.headers.get("sec-fetch-site", "").lower()
    if origin:
        if _allowed_by_host(origin) or _trusted(urlsplit(origin).netloc):
            return ""
        forwarded = request.headers.get("x-forwarded-host", "").split(",")[0].strip()
        if site != "cross-site" and any(_same(origin, name) for name in (asked, forwarded) if name):
            return ""
    elif site not in ("cross-site", "same-site") or _allowed_by_host("*"):
        return ""
    where = origin if origin and origin != "null" else "another web page"
    return (
        f"this request comes from {where}, not from this WebUI ({asked}). If that is your own page or proxy, add its"
        f" host to {SETTING}, or start the WebUI with --cors-allow-origins"
    )


def _on_loopback() -> bool:
    """Whether the host was started for this machine alone: no --listen, no --share, no name or address of a network."""
    options = host.module("shared").cmd_opts
    if any(getattr(options, name, None) for name in ("listen", "share", "ngrok")):
        return False
    name = getattr(options, "server_name", None)
    return not name or name == "localhost" or _is_loopback_address(name)


def _is_loopback_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _name_and_port(authority: str, scheme: str = "http") -> tuple[str, int | None]:
    """("host", port) of `host:port`, with the scheme's own port where none is given; ("", None) if it is neither."""
    try:
        parts = urlsplit(f"//{authority}")
        port = parts.port
    except ValueError:
        return "", None
    return (parts.hostname or "").rstrip("."), port or DEFAULT_PORTS.get(scheme)


def _is_local(authority: str) -> bool:
    name, _ = _name_and_port(authority)
    if not authority or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own_name(authority: str, request: Request) -> bool:
    """The name under which the server itself runs: an address with real servers, a name with in-process clients."""
    server = request.scope.get("server") or ("", None)
    return bool(server[0]) and _name_and_port(authority)[0] == str(server[0]).lower()


def _same(origin: str, authority: str) -> bool:
    parts = urlsplit(origin)
    ours = _name_and_port(authority, parts.scheme)
    return bool(ours[0]) and _name_and_port(parts.netloc, parts.scheme) == ours


def _trusted(authority: str) -> bool:
    """Whether the user named this host (`name` or `name:port`) in the setting."""
    names = {name.lower() for name in re.split(r"[\s,]+", str(host.option("trusted_hosts") or "")) if name}
    return bool(authority) and (authority.lower() in names or _name_and_port(authority)[0] in names)


def _allowed_by_host(origin: str) -> bool:
    """Whether the host's own command line lets pages of this origin use its API."""
    options = host.module("shared").cmd_opts
    listed = [item.strip().rstrip("/") for item in str(getattr(options, "cors_allow_origins", None) or "").split(",")]
    if "*" in listed or (origin and origin in listed):
        return True
    pattern = getattr(options, "cors_allow_origins_regex", None)
    try:
        return bool(pattern and origin) and re.fullmatch(str(pattern), str(origin)) is not None
    except re.error:
        return False


# --- who may ask ----------------------------------------------------------------------------------


def credentials() -> list[tuple[str, str]]:
    """Every user:password pair of --api-auth, --gradio-auth and --gradio-auth-path; empty: the server is open."""
    options = host.module("shared").cmd_opts
    lines = [getattr(options, "api_auth", None), getattr(options, "gradio_auth", None)]
    if path := getattr(options, "gradio_auth_path", None):
        try:
            with open(path, encoding="utf-8") as file:
                lines += file.read().splitlines()
        except (OSError, ValueError) as error:
            logger.error("the accounts in %s cannot be read (%s), so nobody is let in", path, error)
            raise HTTPException(status_code=503, detail="the WebUI's file of accounts cannot be read") from error
    pairs = [pair.strip() for line in lines if line for pair in line.replace('"', "").split(",")]
    return [(user, password) for user, _, password in (pair.partition(":") for pair in pairs if pair)]


def several_accounts() -> bool:
    """Whether more than one person may sign in, or nobody can tell: what one made is not for the others."""
    try:
        return len({user for user, _ in credentials()}) > 1
    except HTTPException:
        return True


async def authorise(request: Request) -> None:
    """HTTP Basic against the host's own accounts. All pairs are compared, in constant time."""
    known = credentials()
    if not known:
        return
    given = await HTTPBasic(auto_error=False)(request)
    user, password = (given.username.encode(), given.password.encode()) if given else (b"", b"")
    hits = [
        secrets.compare_digest(user, name.encode()) & secrets.compare_digest(password, word.encode())
        for name, word in known
    ]
    if not any(hits):
        raise HTTPException(
            status_code=401, detail="Incorrect username or password", headers={"WWW-Authenticate": "Basic"}
        )


async def require_token(request: Request) -> None:
    """Only our own page, by the token that lies in it. The WebUI makes a new one at each start."""
    given = request.headers.get(TOKEN_HEADER, "")
    if not secrets.compare_digest(given.encode("utf-8", "replace"), TOKEN.encode()):
        raise HTTPException(
            status_code=401,
            detail=(
                "reload the page: it was opened before the WebUI was started again"
                if given
                else "this route is for the WebUI's own page: reload the page, and use it there"
            ),
            headers={"WWW-Authenticate": "ImageReward-Token"},  # a scheme that makes no browser ask for a password
        )


# --- the routes -----------------------------------------------------------------------------------

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route for the host's users: its accounts are asked for where it has any."""

    async def admit(self, request: Request) -> None:
        """Raise HTTPException unless whoever sent this may ask at all. The body is still unread."""
        await authorise(request)

    def get_route_handler(self) -> Handler:
        """FastAPI's handler behind our checks."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            why = refusal(request)
            if why:
                _log_once(why)
                raise HTTPException(status_code=403, detail=why)
            await self.admit(request)
            with bodies.Reading(request, self.path) as body:
                checked = await body.checked()
                return await handle(checked)

        return guarded


class PageRoute(GuardedRoute):
    """A route for our own page alone, whatever accounts the caller has."""

    async def admit(self, request: Request) -> None:
        """Raise HTTPException unless the page's token was sent."""
        await require_token(request)


def _log_once(why: str) -> None:
    if why not in _told and len(_told) < 100:
        _told.add(why)
        logger.warning("refused: %s", why)


class Alone:
    """A dependency that lets one request at a time into a route; the others are told to try again (429).

    `@router.post("/estimate", dependencies=[Depends(Alone("an estimate"))])`
    """

    def __init__(self, what: str):
        self._what, self._lock = what, threading.Lock()

    def __call__(self) -> Iterator[None]:
        """Hold the route until the answer is made."""
        if not self._lock.acquire(blocking=False):
            raise HTTPException(
                status_code=429,
                detail=f"{self._what} is being made already; try again when it is done",
                headers={"Retry-After": "2"},
            )
        try:
            yield
        finally:
            self._lock.release()
