# SPDX-License-Identifier: Apache-2.0
"""What strangers' videos may be and take: formats, codecs, playlists that reach for other files, and addresses."""

import base64
import contextlib
import hashlib
import io
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import av
import pytest
from av.format import formats_available

from tubevit_hf import TubeViTVideoProcessor, VideoDecodingError, VideoLimits, VideoReader, read_video
from tubevit_hf.model import video_sources_tubevit as sources
from tubevit_hf.model.video_decoding_tubevit import FrameBuffer
from tubevit_hf.model.video_sources_tubevit import CODECS, FORMATS, NEVER, RemoteFile, is_public

from ..support.video_corpus import Case, draw_frame, write, write_frames


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write(Case("secret.mp4", options={"g": "10"}), tmp_path_factory.mktemp("secret"))


# Formats and codecs


def test_the_lists_are_short():
    assert len(FORMATS) <= 25
    assert len(CODECS) <= 25
    short_names = {short for name in formats_available for short in name.split(",")}
    assert set(FORMATS) <= short_names
    for name in CODECS:
        assert av.Codec(name, "r").type == "video"
    assert not {short for name in NEVER for short in name.split(",")} & set(FORMATS)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("h264.nut"), "its format is 'nut', none of those"),
        (Case("rv20.rm", "rv20"), "its format is 'rm', none of those"),
        (Case("magic.avi", "magicyuv", "yuv444p"), "its codec is 'magicyuv', none of those"),
        (Case("ut.avi", "utvideo", "yuv422p"), "its codec is 'utvideo', none of those"),
        (Case("rle.mov", "qtrle", "rgb24"), "its codec is 'qtrle', none of those"),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_unusual_formats_open_on_demand(case, message, tmp_path, monkeypatch):
    path = write(case, tmp_path)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(VideoDecodingError, match=f"{message}.*`limits=VideoLimits.any_format=True.*ANY_FORMAT=1"):
            read_video(source, [0])
    assert len(read_video(path, [0, 5], VideoLimits(any_format=True))[0]) == 2
    monkeypatch.setenv("TUBEVIT_ANY_FORMAT", "1")
    assert len(read_video(path, [0, 5])[0]) == 2


def test_the_search_for_a_name_leaves_the_log_as_it_was(tmp_path):
    path = write(Case("h264.nut"), tmp_path)
    for level in (None, av.logging.WARNING):
        av.logging.set_level(level)
        with pytest.raises(VideoDecodingError, match="'nut'"):
            read_video(path)
        assert av.logging.get_level() == level
    av.logging.set_level(None)


def test_limits_of_the_environment(monkeypatch):
    monkeypatch.setenv("TUBEVIT_MAX_DOWNLOAD", "1000")
    monkeypatch.setenv("TUBEVIT_PRIVATE_ADDRESSES", "0")
    assert VideoLimits.from_environment() == VideoLimits(max_download=1000, private_addresses=False)
    for value in ("yes", "-1", "1e9", "1" * 30):
        monkeypatch.setenv("TUBEVIT_MAX_DOWNLOAD", value)
        with pytest.raises(ValueError, match=f"TUBEVIT_MAX_DOWNLOAD must be a whole number, 0 or more, got '{value}'"):
            read_video("a.mp4")


def test_large_frames_are_refused(video, monkeypatch):
    monkeypatch.setenv("TUBEVIT_MAX_PIXELS", "6143")
    with pytest.raises(VideoDecodingError, match=r"frames of 96 x 64 pixels are too large; at most 6143"):
        read_video(video)
    # the decoder's own frames are larger, by a margin
    monkeypatch.setenv("TUBEVIT_MAX_PIXELS", "100000")
    assert len(read_video(video, [3])[0]) == 1


@pytest.mark.parametrize(
    ("settings", "stored"),
    [
        ({}, (33, 49)),
        ({"size": {"height": 32, "width": 48}}, (32, 48)),
        # no smaller, or not at all
        ({"size": {"shortest_edge": 100}}, (64, 96)),
        ({"do_resize": False}, (64, 96)),
    ],
)
def test_frames_are_shrunk_as_they_are_decoded(settings, stored, video, monkeypatch):
    """To the same numbers as all at once."""
    processor = TubeViTVideoProcessor(num_frames=5, crop_size=32, size={"shortest_edge": 33})
    frames, _ = read_video(video, lambda metadata: processor.sample_frames(metadata, num_frames=5))
    expected = processor(frames, do_sample_frames=False, return_tensors="pt", **settings)["pixel_values"]
    kept = []
    add = FrameBuffer.add

    def watched(self, *arguments):
        add(self, *arguments)
        kept.append(tuple(self.images.shape[2:]))

    monkeypatch.setattr(FrameBuffer, "add", watched)
    outputs = processor(str(video), return_tensors="pt", return_metadata=True, **settings)
    assert outputs["pixel_values"].equal(expected)
    assert set(kept) == {stored}
    metadata = outputs["video_metadata"][0]
    assert (metadata.height, metadata.width) == (64, 96)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_large_frames(tmp_path):
    """The model's input, and four frames in full."""
    side, num_frames = 2048, 32
    path = tmp_path / "large.mp4"
    # no frame needs another, or the decoder would keep those that it needs
    case = Case("large.mp4", options={"preset": "ultrafast", "g": "1"}, height=side, width=side)
    write_frames(path, [draw_frame(index, side, side) for index in range(num_frames)], case)
    code = """
        import resource, sys
        from tubevit_hf import TubeViTVideoProcessor
        processor = TubeViTVideoProcessor(num_frames=32)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        processor(sys.argv[1], return_tensors="pt")
        before = peak()
        processor(sys.argv[2], return_tensors="pt")
        print(peak() - before)
    """
    small = write(Case("small.mp4"), tmp_path)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), small, path], capture_output=True, text=True, check=True
    )
    model_input = num_frames * 3 * 224 * 224 * 4
    assert int(result.stdout) < model_input + 4 * 3 * side * side


# Files that reach for other files and addresses


class Called(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.calls.append(self.path)
        body = self.server.pages.get(self.path)
        if body is None:
            self.send_error(404)
            return
        if callable(body):
            with contextlib.suppress(OSError):
                body(self)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Called)
    server.daemon_threads = True
    server.calls, server.pages = [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with serving() as running:
        yield running


def playlists(target: str) -> dict[str, bytes]:
    """Files by their names that make a reader open a target."""
    m3u8 = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\n{}\n"
    end = "#EXT-X-ENDLIST\n"
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000"><BaseURL>{}</BaseURL>'
        "<SegmentBase/></Representation></AdaptationSet></Period></MPD>"
    )
    sdp = "v=0\no=- 0 0 IN IP4 {0}\ns=x\nc=IN IP4 {0}\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    texts = {
        "list.m3u8": m3u8.format(target) + end,
        "list.mp4": m3u8.format(target) + end,
        "concat.m3u8": m3u8.format(f"concat:{target}|{target}") + end,
        "key.m3u8": m3u8.replace("#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF').format(target) + end,
        "map.m3u8": m3u8.replace("#EXTINF", f'#EXT-X-MAP:URI="{target}"\n#EXTINF').format(target) + end,
        "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\n{target}\n",
        "subfile.m3u8": m3u8.format(f"subfile,,start,0,end,0,,:{target}") + end,
        "dash.mpd": mpd.format(target),
        "script.ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "script.mp4": f"ffconcat version 1.0\nfile '{target}'\n",
        "options.ffconcat": f"ffconcat version 1.0\nfile '{target}'\noption safe 0\n",
        "session.sdp": sdp.format("127.0.0.1"),
        "stream.asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "movie.smil": f'<smil><body><video src="{target}"/></body></smil>',
        "text.mov": f"RTSPtext{target}\n",
    }
    return {name: text.encode() for name, text in texts.items()}


@pytest.mark.parametrize("any_format", [False, True])
@pytest.mark.parametrize("name", playlists(""))
def test_playlists_open_nothing(name, any_format, video, server, tmp_path):
    """Neither a file, which would give frames, nor an address, which would be called."""
    limits = VideoLimits(any_format=any_format)
    server.pages["/secret.mp4"] = video.read_bytes()
    targets = (str(video), f"file:{video}", f"file://{video}", f"{server.url}/secret.mp4", "secret.mp4")
    (tmp_path / "secret.mp4").write_bytes(video.read_bytes())
    for target in targets:
        content = playlists(target)[name]
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, str(tmp_path / name), content, io.BytesIO(content)):
            with pytest.raises(VideoDecodingError):
                read_video(source, [0], limits)
        # and from an address, with ranges and without
        server.calls.clear()
        for page in (content, with_ranges(content)):
            server.pages[f"/{name}"] = page
            with pytest.raises(VideoDecodingError):
                read_video(f"{server.url}/{name}", [0], limits)
        assert set(server.calls) == {f"/{name}"}


def with_ranges(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start:])

    return answer


def test_names_that_ffmpeg_would_follow(video, tmp_path, monkeypatch):
    """A name is the name of a file, whatever it looks like."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        frames = [draw_frame(number)]
        write_frames(tmp_path / f"picture{number}.png", frames, Case("", "png", "rgb24", num_frames=1))
    for name in (
        f"concat:{video}|{video}",
        f"subfile,,start,0,end,0,,:{video}",
        f"file:{video}",
        f"cache:{video}",
        f"crypto:{video}",
        f"data:video/mp4;base64,{'A' * 20}",
        "tcp://127.0.0.1:1",
        "lavfi:testsrc",
        "picture%d.png",
        "picture*.png",
    ):
        for any_format in (False, True):
            with pytest.raises((VideoDecodingError, FileNotFoundError)):
                read_video(name, [0], VideoLimits(any_format=any_format))


def test_a_movie_whose_data_lie_elsewhere(video, tmp_path):
    """QuickTime's data references name another file, with its path."""
    data = bytearray(video.read_bytes())
    entry = data.index(b"url ", data.index(b"dref"))
    # a flag says that the data are in the file itself
    assert data[entry + 7] == 1
    data[entry + 7] = 0
    data[entry : entry + 4] = b"alis"
    path = tmp_path / "elsewhere.mov"
    path.write_bytes(data)
    for any_format in (False, True):
        # its own bytes are read as before
        with contextlib.suppress(VideoDecodingError), VideoReader(path, VideoLimits(any_format=any_format)) as reader:
            assert reader.metadata.total_num_frames <= 40


# Addresses


def test_an_answer_without_end_stops_at_the_limit(server, monkeypatch):
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            sent.append(handler.wfile.write(bytes(2**16)))

    made = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(sources.tempfile, "TemporaryFile", lambda: made.append(temporary()) or made[-1])
    server.pages["/endless.mp4"] = endless
    with pytest.raises(VideoDecodingError, match=r"more than 1000000 bytes .*`VideoLimits.max_download`"):
        read_video(f"{server.url}/endless.mp4", limits=VideoLimits(max_download=1_000_000))
    assert [file.closed for file in made] == [True]
    # what is on its way when the reader hangs up was sent, though
    assert sum(sent) < 30_000_000


def test_a_length_beyond_the_limit_is_refused_at_once(server, video):
    server.pages["/video.mp4"] = video.read_bytes()
    size = len(server.pages["/video.mp4"])
    assert len(read_video(f"{server.url}/video.mp4", [3], VideoLimits(max_download=size))[0]) == 1
    with pytest.raises(VideoDecodingError, match=f"more than {size - 1} bytes"):
        read_video(f"{server.url}/video.mp4", [3], VideoLimits(max_download=size - 1))
    # of parts those that are read count
    server.pages["/video.mp4"] = with_ranges(server.pages["/video.mp4"])
    with pytest.raises(VideoDecodingError, match="more than 1000 bytes"):
        read_video(f"{server.url}/video.mp4", [3], VideoLimits(max_download=1000))


def drip(handler: BaseHTTPRequestHandler, byte: bytes) -> None:
    while True:
        handler.wfile.write(byte)
        time.sleep(0.1)


def drip_header(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    drip(handler, b"x")


def drip_body(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    drip(handler, b"x")


def drip_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    drip(handler, b"0")


def drip_part(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(206)
    handler.send_header("Content-Range", "bytes 0-999999/1000000")
    handler.end_headers()
    drip(handler, b"x")


@pytest.mark.parametrize("answer", [drip_header, drip_body, drip_chunks, drip_part])
def test_time_is_limited_in_all(server, answer):
    """One byte at a time is no silence, and still ends."""
    server.pages["/slow.mp4"] = answer
    start = time.monotonic()
    with pytest.raises(VideoDecodingError, match=r"more than 1 seconds in all \(`VideoLimits.max_seconds`\)"):
        read_video(f"{server.url}/slow.mp4", limits=VideoLimits(max_seconds=1))
    assert time.monotonic() - start < 5


def redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.end_headers()

    return answer


def test_redirects_are_counted(server, video):
    server.pages["/0.mp4"] = video.read_bytes()
    for number in range(1, 5):
        server.pages[f"/{number}.mp4"] = redirect(f"/{number - 1}.mp4")
    assert len(read_video(f"{server.url}/3.mp4", [0], VideoLimits(max_redirects=3))[0]) == 1
    with pytest.raises(VideoDecodingError, match=r"too often \(`VideoLimits.max_redirects`\)"):
        read_video(f"{server.url}/4.mp4", [0], VideoLimits(max_redirects=3))
    server.pages["/circle.mp4"] = redirect("/circle.mp4")
    server.calls.clear()
    with pytest.raises(VideoDecodingError, match="in circles"):
        read_video(f"{server.url}/circle.mp4", [0], VideoLimits(max_redirects=20))
    assert len(server.calls) == 21


@pytest.mark.parametrize("scheme", ["file://", "ftp://127.0.0.1", "data:video/mp4,", "gopher://127.0.0.1/"])
def test_redirects_lead_to_http_only(server, video, scheme):
    server.pages["/moved.mp4"] = redirect(f"{scheme}{video}")
    with pytest.raises(VideoDecodingError, match="not allowed"):
        read_video(f"{server.url}/moved.mp4")


def test_private_addresses_can_be_refused(server, video, monkeypatch):
    server.pages["/video.mp4"] = video.read_bytes()
    limits = VideoLimits(private_addresses=False)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433"):
        with pytest.raises(VideoDecodingError, match=f"{host} leads to .*, which is no public address"):
            read_video(f"http://{host}:{server.server_port}/video.mp4", limits=limits)
    assert not server.calls

    # a public name that leads here, and its server, which sends elsewhere
    server.pages["/moved.mp4"] = redirect(f"{server.url}/video.mp4")
    names = {"public.example": "93.184.216.34"}
    find = socket.getaddrinfo
    connect = socket.create_connection
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: find(names.get(host, host), *rest, **more))
    monkeypatch.setattr(
        sources.socket,
        "create_connection",
        lambda address, *rest: connect(
            ("127.0.0.1" if address[0] == "93.184.216.34" else address[0], address[1]), *rest
        ),
    )
    public = f"http://public.example:{server.server_port}"
    assert len(read_video(f"{public}/video.mp4", [0], limits)[0]) == 1
    server.calls.clear()
    with pytest.raises(VideoDecodingError, match=r"127\.0\.0\.1 leads to 127\.0\.0\.1, which is no public"):
        read_video(f"{public}/moved.mp4", limits=limits)
    assert server.calls == ["/moved.mp4"]


PRIVATE = (
    *("10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:0a00:0001::1", "64:ff9b::a00:1"),
    "ff02::1",
)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        *((address, False) for address in PRIVATE),
    ],
)
def test_which_addresses_are_public(address, expected):
    assert is_public(address) == expected


def test_a_file_that_changes_while_it_is_read(server, video):
    data = video.read_bytes()
    server.pages["/video.mp4"] = with_ranges(data)
    with RemoteFile(f"{server.url}/video.mp4", VideoLimits()) as remote:
        remote.connect(0)
        assert remote.read(4) + remote.read(4) == data[:8]
        remote.seek(-4, 2)
        assert remote.read() == data[-4:]
        server.pages["/video.mp4"] = with_ranges(data + b"more")
        remote.seek(0)
        with pytest.raises(VideoDecodingError, match="changed on the server"):
            remote.read(4)


def test_a_server_that_sends_other_parts(server):
    def other(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 5-9/10")
        handler.end_headers()
        handler.wfile.write(bytes(5))

    server.pages["/video.mp4"] = other
    with pytest.raises(VideoDecodingError, match="other parts of the file"):
        read_video(f"{server.url}/video.mp4")


def test_a_server_that_hangs_up(server, video):
    data = video.read_bytes()

    def short(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        handler.end_headers()
        handler.wfile.write(data[:100])

    server.pages["/video.mp4"] = short
    with pytest.raises(VideoDecodingError, match="hung up in the middle"):
        read_video(f"{server.url}/video.mp4")


# Addresses as browsers show them, and what is secret in them


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        ("/clip ä.mp4", "/clip%20%C3%A4.mp4"),
        ("/clip%20ä.mp4?name=ü b", "/clip%20%C3%A4.mp4?name=%C3%BC%20b"),
        ("/clip%20%C3%A4.mp4?a=1+2&b=%2F/", "/clip%20%C3%A4.mp4?a=1+2&b=%2F/"),
        ("/100%.mp4", "/100%25.mp4"),
        ("/[a] {b} \\ 'c'.mp4#t=10", "/%5Ba%5D%20%7Bb%7D%20%5C%20'c'.mp4"),
        # an argument of a command that is no UTF-8
        ("/caf\udce9.mp4", "/caf%E9.mp4"),
        ("", "/"),
        ("?a", "/?a"),
    ],
)
def test_what_is_asked_of_a_server(address, asked, server, video):
    server.pages[asked] = video.read_bytes()
    url = server.url.replace("http", "HTTP") + address
    assert len(read_video(url, [3])[0]) == 1
    assert set(server.calls) == {asked}


def test_a_host_of_letters(monkeypatch):
    called = []

    def resolve(host, *arguments, **settings):
        called.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for host in ("bücher.example", "xn--bcher-kva.example"):
        with pytest.raises(VideoDecodingError, match=rf"^http://{host}/a\.mp4: it cannot be read"):
            read_video(f"http://{host}/a.mp4")
    assert called == ["xn--bcher-kva.example"] * 2


# as it is written in an address, and as it is sent
PASSWORDS = {"s3cret": "s3cret", "p%40s%2Fs%3As": "p@s/s:s", "ü:%25%C3%BC": "ü:%ü"}


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("has_ranges", [False, True])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_goes_to_its_server_only(password, has_ranges, isolated, server, video):
    asked = []
    body = with_ranges(video.read_bytes()) if has_ranges else None

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers.get("Authorization"))
        if body is not None:
            body(handler)
        else:
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(video.read_bytes())

    def move_to(url: str) -> Callable[[BaseHTTPRequestHandler], None]:
        move = redirect(url)

        def answer(handler: BaseHTTPRequestHandler) -> None:
            asked.append(handler.headers.get("Authorization"))
            move(handler)

        return answer

    basic = "Basic " + base64.b64encode(f"me:{PASSWORDS[password]}".encode()).decode()
    private = server.url.replace("//", f"//me:{password}@")
    limits = VideoLimits(isolated=isolated)
    server.pages["/video.mp4"] = answer
    server.pages["/here"] = move_to("/video.mp4")
    with serving() as other:
        other.pages["/video.mp4"] = answer
        server.pages["/away"] = move_to(f"{other.url}/video.mp4")
        for path, expected in {"/video.mp4": {basic}, "/here": {basic}, "/away": {basic, None}}.items():
            asked.clear()
            assert len(read_video(private + path, [3], limits)[0]) == 1
            assert set(asked) == expected
        # to the other server, as the last one to be called
        assert asked[-1] is None and asked[0] == basic
        # and the address that is redirected to may hold its own
        server.pages["/login"] = move_to(f"{private}/video.mp4".replace("ü", "%C3%BC"))
        asked.clear()
        assert len(read_video(f"{server.url}/login", [3], limits)[0]) == 1
        assert asked[0] is None and set(asked[1:]) == {basic}


def everything_said(error: BaseException | None) -> str:
    said = ""
    while error is not None:
        said += f"{error} {error!r} {error.args}\n"
        error = error.__cause__ or error.__context__
    return said


def repeat(handler: BaseHTTPRequestHandler) -> None:
    """Says what it was asked, as a server that speaks no HTTP may."""
    handler.wfile.write(f"{handler.path} {handler.headers['Authorization']}\r\n".encode())


def refuse(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(403, f"not with {handler.path}")
    handler.end_headers()


@pytest.mark.parametrize("isolated", [False, True])
def test_no_message_tells_a_secret(isolated, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limits = VideoLimits(isolated=isolated)
    server.pages |= {
        "/text.mp4?token=s3cret": b"no video" * 100,
        "/refused?token=s3cret": refuse,
        "/repeated?token=s3cret": repeat,
        "/elsewhere?token=s3cret": redirect("gopher://me:s3cret@nowhere/?token=s3cret"),
        "/nowhere?token=s3cret": redirect("http://me:s3cret@a..b/?token=s3cret"),
        "/circle?token=s3cret": redirect("/circle?token=s3cret"),
    }
    place = server.url.removeprefix("http://")
    for address in (
        *(f"http://me:s3cret@{place}{path}" for path in server.pages),
        f"http://me:s3cret@{place}/missing?X-Amz-Signature=s3cret#s3cret",
        "http://me:s3cret@a..b/",
        "http://me:s3cret@127.0.0.1:99999/",
        "http://me:s3cret@[::1/",
        "http://me:/s3cret@nowhere/",
        "http://me:#s3cret@nowhere/",
        "http://me:x?s3cret@nowhere/",
        "http://s3cret@/",
        "http://me:s3cret@\N{FULLWIDTH SOLIDUS}/",
        "http://me:s3cret@no where/",
        # what is no address of a file
        "rtsp://me:s3cret@nowhere/?token=s3cret",
        PurePosixPath("https://me:s3cret@nowhere/"),
        " http://me:s3cret@127.0.0.1:99999/",
    ):
        with pytest.raises(VideoDecodingError) as caught:
            read_video(address, limits=limits)
        assert "s3cret" not in everything_said(caught.value) and "me:" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("http://me:secret@host:80/a b.mp4", "http://host:80/a b.mp4"),
        ("https://token@host/@user/a.mp4", "https://host/@user/a.mp4"),
        ("https://host/a.mp4?", "https://host/a.mp4"),
        ("https://host/a.mp4?id=1#t", f"https://host/a.mp4?sha256={hashlib.sha256(b'id=1').hexdigest()[:8]}"),
        ("https://host/a.mp4?id=2", f"https://host/a.mp4?sha256={hashlib.sha256(b'id=2').hexdigest()[:8]}"),
        ("https://[::1]/@a", "https://[::1]/@a"),
        ("folder/me:x@host/a.mp4", "folder/me:x@host/a.mp4"),
        ("https:/me:secret@host/a.mp4", "https:/host/a.mp4"),
        (" https://me:secret@host/a.mp4", " https://host/a.mp4"),
        ("C:/me@host/a.mp4", "C:/me@host/a.mp4"),
    ],
)
def test_addresses_without_secrets(name, shown):
    assert sources.hide_secrets(name) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a [/b] |é\u200d\xa0.mp4", "a [/b] |é\u200d\xa0.mp4"),
        ("a\x1b[31m\n\t\x9b.mp4", "a\\x1b[31m\\n\\t\\x9b.mp4"),
        ("caf\udce9", "caf\\udce9"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}4pm.exe", "\\u202e4pm.exe"),
    ],
)
def test_names_that_do_nothing_to_a_terminal(name, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoDecodingError) as caught:
        read_video(name)
    assert str(caught.value).startswith(f"{shown}: it cannot be read")
