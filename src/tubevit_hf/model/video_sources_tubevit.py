# SPDX-License-Identifier: Apache-2.0
"""What may be opened as a video, and how far: containers, codecs, sizes, and files at http(s) addresses.

Videos come from strangers. FFmpeg reads hundreds of formats, some of which name other files and addresses; so only the
usual ones are open to a file, and addresses are read here, never by FFmpeg.
"""

import base64
import contextlib
import hashlib
import http
import http.client
import io
import ipaddress
import mimetypes
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from typing import IO, Any, BinaryIO

import av
from av.format import formats_available

from .video_animations_tubevit import AnimationError, convert_animation, read_size


# What can be read
VideoSource = str | os.PathLike[str] | bytes | BinaryIO
# What is read: a path with FFmpeg's protocol, or a file
OpenFile = str | BinaryIO | io.RawIOBase

# What phones, cameras, editors, browsers and data sets write, by FFmpeg's names; one of several names is enough
FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "gif", "dv", "yuv4mpegpipe", "ivf"),
    # without a container
    *("h264", "hevc", "mpegvideo", "m4v"),
    # a picture is a video of one frame
    *("png_pipe", "jpeg_pipe", "webp_pipe"),
)
CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg2video", "mpeg1video", "h263", "theora"),
    *("wmv2", "wmv3", "vc1", "msmpeg4", "flv", "mjpeg", "prores", "dnxhd", "dvvideo", "ffv1", "rawvideo", "gif"),
    *("png", "webp"),
)
# Playlists, scripts, patterns of files and live protocols: they name other files and addresses, and are never read
NEVER = {
    *("hls", "dash", "webm_dash_manifest", "concat", "imf", "image2", "alias_pix", "brender_pix", "ffmetadata"),
    *("sdp", "rtsp", "rtp", "sap", "lavfi"),
    # devices
    *("alsa", "fbdev", "kmsgrab", "video4linux2,v4l2", "x11grab"),
}
# Seconds that a server may keep silent
SILENCE = 30.0
# Bytes ahead that are read on rather than asked for anew
NEAR = 2**18


class VideoDecodingError(ValueError):
    """A video cannot be decoded; the message names the file and the cause."""


@dataclass(frozen=True)
class VideoLimits:
    """What a video may be and take. Each has an environment variable, which sets the default: `TUBEVIT_` and its name
    in capitals, such as `TUBEVIT_ANY_FORMAT=1`.

    Args:
        any_format: whether all containers and codecs of FFmpeg are open, not only the usual ones. Those that name
            other files or addresses are never read.
        max_pixels: of a frame. A header of a few bytes could claim gigabytes.
        max_decoded: bytes of the frames that are kept of one reading.
        max_download: bytes that are read of a URL, in all.
        max_seconds: that are spent waiting for a URL, in all.
        max_redirects: of a URL.
        private_addresses: whether a URL may lead to addresses that are not public, such as the own network's.
        isolated: whether videos are decoded in a process of their own, so that a crash, a hang or too much memory is a
            [`VideoDecodingError`]. For servers; it takes some seconds at first, and Linux or macOS.
        max_memory: bytes that such a process may take, beside what it takes when it starts. Linux only.
        max_silence: seconds that such a process may give no sign.
    """

    any_format: bool = False
    # more than twice the pixels of 8K video
    max_pixels: int = 2**26
    max_decoded: int = 2**34
    max_download: int = 2 * 2**30
    max_seconds: int = 300
    max_redirects: int = 5
    private_addresses: bool = True
    isolated: bool = False
    max_memory: int = 4 * 2**30
    max_silence: int = 60

    @classmethod
    def from_environment(cls) -> "VideoLimits":
        """
        Raises:
            ValueError: an environment variable is no number of 0 or more.
        """
        settings: dict[str, Any] = {}
        for field in fields(cls):
            name = f"TUBEVIT_{field.name.upper()}"
            value = os.environ.get(name)
            if not value:
                continue
            if not re.fullmatch("[0-9]{1,18}", value):
                raise ValueError(f"The environment variable {name} must be a whole number, 0 or more, got {value!r}.")
            settings[field.name] = type(field.default)(int(value))
        return cls(**settings)

    def container_options(self) -> dict[str, str]:
        """Options of FFmpeg for a container; its decoders take `decoder_options`."""
        formats = [name for name in formats_available if name not in NEVER] if self.any_format else FORMATS
        return {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(formats)), **self.decoder_options()}

    def decoder_options(self) -> dict[str, str]:
        options = {"max_pixels": str(self.max_pixels)}
        if not self.any_format:
            options["codec_whitelist"] = ",".join(CODECS)
        return options

    def check_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise VideoDecodingError(
                f"frames of {width} x {height} pixels are too large; at most {self.max_pixels} pixels are read "
                "(`VideoLimits.max_pixels`)."
            )

    def check_codec(self, name: str) -> None:
        if not self.any_format and name not in CODECS:
            raise VideoDecodingError(f"its codec is {name!r}, {NOT_USUAL}")


NOT_USUAL = (
    "none of those that are read by default; `limits=VideoLimits(any_format=True)`, or the environment variable "
    "TUBEVIT_ANY_FORMAT=1, opens the others. Do so for files that you trust."
)


def open_container(file: OpenFile, limits: VideoLimits) -> av.container.InputContainer:
    """Opens what `open_source` gave.

    Raises:
        VideoDecodingError: the container is of a format that is not open.
        av.error.FFmpegError: it cannot be opened.
    """
    if not isinstance(file, str):
        file.seek(0)
    try:
        return av.open(file, mode="r", options=limits.container_options(), metadata_errors="replace")
    except av.error.ArgumentError as error:
        name = find_format(file, limits)
        if name is None:
            raise
        if name in NEVER:
            raise VideoDecodingError(
                f"it is of the format {name!r}, which names other files or addresses, and is never read."
            ) from error
        raise VideoDecodingError(f"its format is {name!r}, {NOT_USUAL}") from error


def find_format(file: OpenFile, limits: VideoLimits) -> str | None:
    """Name of a format that is not open, which FFmpeg says in its log only."""
    if not isinstance(file, str):
        file.seek(0)
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    # or a message that came before would not come again
    av.logging.set_skip_repeated(False)
    try:
        # pyrefly: ignore[bad-context-manager]  it is one, whatever PyAV's types say
        with av.logging.Capture() as logs:
            av.open(file, mode="r", options=limits.container_options()).close()
    except av.error.FFmpegError:
        pass
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    return next((name for _, name, message in logs if message.startswith("Format not on whitelist")), None)


# Names


def name_of(source: VideoSource) -> str:
    """What messages call a source: without secrets, and in letters that do nothing to a terminal."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", source)
    return printable(hide_secrets(os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else str(name)))


def printable(text: str) -> str:
    """Escapes control characters, ends of lines, marks that turn the direction of writing, and what is no UTF-8."""
    return UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], text)


# lone surrogates are how Python reads a file's name that is no UTF-8
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def hide_secrets(name: str) -> str:
    """An address without user, password and fragment, and with a hash for its query, which can hold a token and tells
    addresses apart; any other name as it is."""
    found = ADDRESS.fullmatch(name)
    if found is None:
        return name
    scheme, place, path, query = found.groups()
    host = place.rpartition("@")[2]
    port = HOST.fullmatch(host)
    if (port is None and "@" in name) or (port is not None and port[1] and "@" in path):
        # a password that holds a slash, a question mark or a number sign
        return hide_secrets(scheme + name.rpartition("@")[2])
    hashed = hashlib.sha256(query.encode(errors="surrogatepass")).hexdigest()[:8] if query else ""
    return f"{scheme}{host}{path}{hashed and '?sha256='}{hashed}"


# scheme, with one slash where `pathlib` was given it; user, host and port; path; query
ADDRESS = re.compile(r"(\s*[a-z][a-z0-9+.-]+:/+)([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.IGNORECASE | re.DOTALL)
HOST = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*)(:[0-9]+)?")


def is_address(path: str) -> bool:
    return re.match(r"\s*https?://", path, re.IGNORECASE) is not None


def check_source(source: VideoSource) -> None:
    """Raises a `TypeError` for what is no source, and an error for a file object that cannot seek."""
    if isinstance(source, (str, os.PathLike, bytes)):
        return
    if isinstance(source, io.TextIOBase) or not hasattr(source, "read"):
        raise TypeError(f"A video is a path, an http(s) URL, bytes or a binary file object, got {source!r}.")
    if not source.seekable():
        raise VideoDecodingError("the file object cannot seek; read it into bytes first.")


def open_source(source: VideoSource, resources: contextlib.ExitStack, limits: VideoLimits) -> OpenFile:
    """What FFmpeg can open: a path with its protocol, or a file object, which `resources` closes if it is our own."""
    file = open_as_it_is(source, resources, limits)
    with contextlib.ExitStack() as meanwhile:
        stored: Any = file
        if isinstance(file, str):
            stored = meanwhile.enter_context(open(file.removeprefix("file:"), "rb"))
        size = read_size(stored)
        if size is None:
            return file
        limits.check_size(*size)
        try:
            return convert_animation(stored, name_of(source), resources, limits.max_decoded)
        except AnimationError as error:
            raise VideoDecodingError(str(error)) from error.__cause__


def open_as_it_is(source: VideoSource, resources: contextlib.ExitStack, limits: VideoLimits) -> OpenFile:
    check_source(source)
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        if source.seek(0, os.SEEK_END) == 0:
            raise VideoDecodingError("it is empty.")
        return source
    path = os.fspath(source)
    if is_address(path):
        return open_url(path, resources, limits)
    if ADDRESS.fullmatch(path) and not os.path.exists(path):
        # the system's error would tell all of it
        raise VideoDecodingError("it is no file, and of addresses only those with http:// or https:// are read.")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise VideoDecodingError(f"it is {'a directory' if stat.S_ISDIR(status.st_mode) else 'no regular file'}.")
    if status.st_size == 0:
        raise VideoDecodingError("it is empty.")
    if (mimetypes.guess_type(path)[0] or "").startswith("image/"):
        # FFmpeg takes some of these names for those of a series of files, and does not look at what is in this one;
        # a file that is opened by a number has no name
        return resources.enter_context(open(os.open(path, os.O_RDONLY), "rb"))
    # without this, FFmpeg would take what stands before a colon for a protocol
    return f"file:{path}"


# Addresses


def split_address(address: str) -> tuple[str, str | None]:
    """An address as it is sent, where browsers show letters and blanks; and the `Authorization` of the user in it.

    Raises:
        VideoDecodingError: it has no host, or a host or port that cannot be.
    """
    url = None
    # Python's errors would tell the password
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(address)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
        if HOST_NAME.fullmatch(host):
            place = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
            url = urllib.parse.urlunsplit((parts.scheme, place, encode(parts.path) or "/", encode(parts.query), ""))
    if url is None:
        raise VideoDecodingError(
            "its address cannot be: http(s)://HOST/PATH, or http(s)://USER:PASSWORD@HOST:PORT/PATH, with %2F, %3F, "
            "%23 and %40 for / ? # and @ in a password."
        )
    if not parts.username and not parts.password:
        return url, None
    login = f"{parts.username or ''}:{parts.password or ''}".encode(errors="surrogateescape")
    return url, "Basic " + base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()


# or an address of version 6, with its zone
HOST_NAME = re.compile("[a-z0-9._-]+|[0-9a-f:.]+(%[a-z0-9._-]+)?", re.IGNORECASE)


def encode(text: str) -> str:
    """Percent-encodes what is not encoded yet."""
    text = re.sub("%(?![0-9A-Fa-f]{2})", "%25", text)
    return urllib.parse.quote(text, safe="%/:?@!$&'()*+,;=~", errors="surrogateescape")


def origin_of(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: who gets a password."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def open_url(url: str, resources: contextlib.ExitStack, limits: VideoLimits) -> OpenFile:
    """A file at an address: read in parts if the server can send such, else a temporary file with what it sends."""
    remote = RemoteFile(url, limits)
    resources.callback(remote.close)
    remote.connect(0)
    if remote.seekable():
        return remote
    file = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open as long as the video
    resources.callback(file.close)
    shutil.copyfileobj(remote, file)
    remote.close()
    return file


class RemoteFile(io.RawIOBase):
    """A file at an http(s) address, read from where it is asked for once it is connected. It cannot seek if the server
    sends no parts.

    Raises:
        VideoDecodingError: a limit is reached, or the file is another one than at first.
        OSError, http.client.HTTPException: the server cannot be reached, or sends nonsense.
    """

    def __init__(self, url: str, limits: VideoLimits):
        super().__init__()
        self.limits, self.login = limits, Login()
        self.url = self.login.take(url)
        self.seconds, self.num_bytes = 0.0, 0
        self.size: int | None = None
        # of the next byte that is read, and of the next that the server sends
        self.position = self.place = 0
        self.response: http.client.HTTPResponse | None = None
        self.line: socket.socket | None = None
        self.opener = make_opener(limits, self.dial, self.login)

    def dial(self, address: tuple[str, int], timeout: float, source_address: None = None) -> socket.socket:
        """As `socket.create_connection`, to public addresses only if the limits say so."""
        host, port = address
        if not self.limits.private_addresses:
            # the address that was checked is the one that is called: asked again, a name could lead elsewhere
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            address = found[0][4][:2]  # pyrefly: ignore[bad-assignment]  as any kind of address
            if not is_public(address[0]):
                raise VideoDecodingError(
                    f"{host} leads to {address[0]}, which is no public address (`VideoLimits.private_addresses`)."
                )
        connected = socket.create_connection(address, timeout)
        if self.line is not None:
            self.line.close()
        self.line = connected.dup()
        return connected

    def hang_up(self) -> None:
        if self.response is not None:
            self.response.close()
        if self.line is not None:
            self.line.close()
        self.response = self.line = None

    @contextlib.contextmanager
    def waiting(self) -> Generator[float, None, None]:
        """Time in here counts; when none is left, the line goes dead. Gives how long the server may be silent."""
        left = max(0.0, self.limits.max_seconds - self.seconds)
        alarm = threading.Timer(left, self.cut)
        alarm.daemon = True
        start = time.monotonic()
        alarm.start()
        try:
            yield max(0.001, min(SILENCE, left))
        finally:
            alarm.cancel()
            self.seconds += time.monotonic() - start
            if self.seconds >= self.limits.max_seconds:
                raise VideoDecodingError(
                    f"the server took more than {self.limits.max_seconds} seconds in all (`VideoLimits.max_seconds`)."
                )

    def cut(self) -> None:
        line = self.line
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def connect(self, place: int) -> None:
        """Asks for the bytes from a place on."""
        self.hang_up()
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={place}-"})
        response, refusal = None, ""
        with self.waiting() as silence:
            try:
                response = self.opener.open(request, timeout=silence)
            except urllib.error.HTTPError as error:
                error.close()  # or the connection would stay open as long as the error is kept
                phrase = http.client.responses.get(error.code, "unknown")
                refusal = f"it cannot be read (HTTP Error {error.code}: {phrase})."
                if 300 <= error.code < 400:
                    refusal = "it redirects to where is not allowed: to http(s) addresses only."
            except http.client.HTTPException as error:
                refusal = f"it cannot be read ({type(error).__name__})."
        if response is None:
            # what the server says, in words of its own, may repeat the address with all that is secret in it
            raise VideoDecodingError(refusal)
        self.response, self.place = response, place
        size = None
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != place:
                raise VideoDecodingError("the server sends other parts of the file than those asked for.")
            size = int(found[2])
        if self.size not in (None, size):
            raise VideoDecodingError("the file changed on the server while it was read.")
        # where the address led to is not looked up again
        self.size, self.url = size, response.url
        length = response.headers.get("Content-Length", "")
        if size is None and length.isdecimal():
            self.check_download(int(length))

    def check_download(self, num_bytes: int) -> None:
        if num_bytes > self.limits.max_download:
            raise VideoDecodingError(
                f"more than {self.limits.max_download} bytes of it would be read (`VideoLimits.max_download`)."
            )

    def receive(self, length: int) -> bytes:
        """Some of what the server sends next, at most `length` bytes; none at its end."""
        assert self.response is not None
        with self.waiting():
            # not `read`, which waits for all of them
            data = self.response.read1(length)
        self.place += len(data)
        self.num_bytes += len(data)
        self.check_download(self.num_bytes)
        return data

    def read(self, size: int = -1, /) -> bytes:
        """At least one byte, before the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(NEAR), b""))
        if size == 0 or (self.size is not None and self.position >= self.size):
            return b""
        if self.response is None or not self.place <= self.position <= self.place + NEAR:
            self.connect(self.position)
        data = b"nothing yet"
        while data and self.place < self.position:
            data = self.receive(self.position - self.place)
        if data:
            data = self.receive(size)
        if not data and self.size is not None:
            raise VideoDecodingError("the server hung up in the middle of the file.")
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if self.size is None:
            raise io.UnsupportedOperation("seek")
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, start + offset)
        return self.position

    def tell(self) -> int:
        return self.position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None

    def close(self) -> None:
        self.hang_up()
        super().close()


# connects to `(host, port)`
Dial = Callable[..., socket.socket]


class Login(urllib.request.BaseHandler):
    """Sends user and password of an address to the server that they were given for, and to no other."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str | None, int | None], str] = {}

    def take(self, address: str) -> str:
        """Gives an address as it is sent, without them."""
        url, authorization = split_address(address)
        if authorization is not None:
            self.known[origin_of(url)] = authorization
        return url

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        authorization = self.known.get(origin_of(request.full_url))
        if authorization is not None:
            # urllib sends the other headers on to where it is redirected
            request.add_unredirected_header("Authorization", authorization)
        return request

    https_request = http_request


def make_opener(limits: VideoLimits, dial: Dial, login: Login) -> urllib.request.OpenerDirector:
    """For http(s) only, redirects included."""
    opener = urllib.request.OpenerDirector()
    # a proxy is an address of the own network, and would hide where a URL leads
    proxies = None if limits.private_addresses else {}
    for handler in (
        urllib.request.ProxyHandler(proxies),
        Http(dial),
        Https(dial),
        Redirects(limits.max_redirects, login),
        login,
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener


class Redirects(urllib.request.HTTPRedirectHandler):
    """As many as are allowed, in circles too."""

    max_redirections = max_repeats = sys.maxsize

    def __init__(self, max_redirects: int, login: Login):
        self.left, self.login = max_redirects, login

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not is_address(newurl):
            fp.close()
            raise VideoDecodingError("it redirects to where is not allowed: to http(s) addresses only.")
        if self.left <= 0:
            fp.close()
            raise VideoDecodingError("it redirects in circles, or too often (`VideoLimits.max_redirects`).")
        self.left -= 1
        try:
            url = self.login.take(newurl)
        except VideoDecodingError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, url)


class Http(urllib.request.HTTPHandler):
    def __init__(self, dial: Dial):
        super().__init__()
        self.dial = dial

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(dialling(http.client.HTTPConnection, self.dial), req)


class Https(urllib.request.HTTPSHandler):
    def __init__(self, dial: Dial):
        super().__init__()
        self.dial = dial

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(dialling(http.client.HTTPSConnection, self.dial), req)


def dialling(connection_class: type[http.client.HTTPConnection], dial: Dial) -> Callable[..., Any]:
    """Makes connections that are set up by `dial`."""

    def connect(host: str, **settings: Any) -> http.client.HTTPConnection:
        connection = connection_class(host, **settings)
        connection._create_connection = dial  # pyrefly: ignore[missing-attribute]  there is no public way
        return connection

    return connect


def is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        # an address of version 4 in one of version 6
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return found.is_global and not found.is_multicast


NAT64 = ipaddress.ip_network("64:ff9b::/96")


__all__ = ["VideoDecodingError", "VideoLimits", "VideoSource"]
