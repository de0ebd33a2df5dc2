"""Checks with ffprobe and ffmpeg that a clip holds what was asked: python3 check_clip.py CLIP SECONDS"""
import json
import subprocess
import sys

path, seconds = sys.argv[1], float(sys.argv[2])
probe = json.loads(subprocess.check_output(
    ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-show_format", "-of", "json", path]))
video = next(s for s in probe["streams"] if s["codec_type"] == "video")
audio = next(s for s in probe["streams"] if s["codec_type"] == "audio")
assert video["codec_name"] == "h264" and video["pix_fmt"] == "yuv420p", video
assert video["r_frame_rate"] == "24/1" and video["avg_frame_rate"] == "24/1", video
assert int(video["nb_read_frames"]) == round(seconds * 24), video["nb_read_frames"]
assert audio["codec_name"] == "aac" and audio["sample_rate"] == "48000" and audio["channels"] == 2, audio
assert abs(float(video["duration"]) - float(audio["duration"])) <= 1 / 24 + 1e-6, (video["duration"], audio["duration"])
# Something moves and something sounds: neither stream is constant.
frames = subprocess.check_output(["ffmpeg", "-v", "error", "-i", path, "-vf", "scale=32:18", "-f", "rawvideo", "-pix_fmt", "gray", "-"])
assert len(set(frames)) > 16, "the picture is flat"
sound = subprocess.check_output(["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-ac", "1", "-"])
assert any(sound), "the sound is silence"
print(f"{path}: {video['width']}x{video['height']}, {video['nb_read_frames']} frames, {audio['duration']} s of sound")
