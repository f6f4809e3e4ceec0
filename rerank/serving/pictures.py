"""Pictures in requests: checked before they wait for their turn, and fetched from allowed hosts only."""

import asyncio
import base64
import io
import warnings
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx2

from rerank.errors import RerankError
from rerank.io.pictures import UNREADABLE, picture_bytes, require_pillow
from rerank.serving.errors import ApiError
from rerank.serving.settings import ServerSettings

_SECONDS = 20.0  #: Maximum time for fetching one picture.


async def load_pictures(pictures: Sequence[str], settings: ServerSettings) -> tuple[str, ...]:
    """Return the pictures of a request as ``data:`` URIs; an empty text stays empty.

    Raises `ApiError` if a picture cannot be read, has too many pixels, or is at an address that is not allowed.
    """
    room = settings.max_body_bytes  # for all that are fetched
    loaded = []
    for position, picture in enumerate(pictures):
        if picture.startswith(("http://", "https://")):
            content = await _fetch(picture, position, room, settings.image_hosts)
            room -= len(content)
            picture = f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
        if picture:
            await asyncio.to_thread(_check, picture, position, settings.max_image_pixels)
        loaded.append(picture)
    return tuple(loaded)


def _check(picture: str, position: int, most_pixels: int) -> None:
    """Read the size of a picture, which does not decode its pixels."""
    image = require_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with image.open(io.BytesIO(picture_bytes(picture))) as file:
                pixels = file.width * file.height
    except (*UNREADABLE, OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        reason = error if isinstance(error, RerankError) else "it is no picture that Pillow reads"
        raise ApiError(422, f"The picture of document {position} cannot be read: {reason}") from error
    if pixels > most_pixels:
        raise ApiError(413, f"The picture of document {position} has {pixels} pixels; expected at most {most_pixels}")


async def _fetch(address: str, position: int, most_bytes: int, hosts: Sequence[str]) -> bytes:
    where = f"The picture of document {position} is at {urlsplit(address).hostname!r}"
    if urlsplit(address).hostname not in hosts:
        raise ApiError(
            422,
            f"{where}, from which this server fetches none; expected the picture itself, as "
            "data:image/png;base64,DATA, or a host that the server's operator allows with --image-host",
        )
    content = b""
    try:
        # Redirects are not followed: they could lead to other hosts, such as those of the server's own network.
        async with (
            asyncio.timeout(_SECONDS),
            httpx2.AsyncClient(timeout=_SECONDS) as client,
            client.stream("GET", address) as response,
        ):
            if response.status_code != 200:
                raise ApiError(422, f"{where}, which answered with status {response.status_code}")
            async for part in response.aiter_bytes():
                content += part
                if len(content) > most_bytes:
                    raise ApiError(413, f"{where} and is larger than the {most_bytes} bytes left for this request")
    except (httpx2.HTTPError, TimeoutError, OSError) as error:
        raise ApiError(422, f"{where}, which does not deliver it: {str(error) or type(error).__name__}") from error
    return content
