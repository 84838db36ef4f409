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
"""Reading frames from files."""

from tubevit_hf import VideoReader, read_video


def test_frames_are_those_of_a_full_read(videos):
    everything, _ = read_video(videos[0])
    with VideoReader(videos[0]) as reader:
        frames, metadata = reader.get_frames([17, 3, 3])
    assert metadata.frames_indices == [17, 3, 3]
    assert frames.equal(everything[[17, 3, 3]])
