# Copyright 2026 The tubevit_hf Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What the reader does with a file that holds less than it says."""

from types import SimpleNamespace

import pytest

from tubevit_hf import VideoDecodingError
from tubevit_hf.video_decoding_tubevit import decode_frames


def test_a_stream_without_a_single_frame_is_refused():
    empty = SimpleNamespace(decode=lambda stream: iter(()))
    with pytest.raises(VideoDecodingError, match=r"clip\.mp4: frame 3 was asked for, but only 0 could be decoded"):
        decode_frames(empty, None, [0, 3], "clip.mp4")
