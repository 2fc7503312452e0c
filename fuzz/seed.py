#!/usr/bin/env python3
"""Writes the transcripts of tests/heads/ as seeds, one folder a target: seed.py FOLDER"""
import glob, os, sys

ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "s": b" ", "0": b"\0", "\\": b"\\"}
# What the targets read in front of the head: profile, cut, options.
FRONT = {"request": b"\x01\x20", "response": b"\x01\x20", "chunk": b"\x07", "h2": b"\x00"}


def unescape(text):
    out, at = b"", 0
    while at < len(text):
        if text[at] != "\\":
            out, at = out + text[at].encode(), at + 1
            continue
        escape, at = text[at + 1], at + 2
        if escape == "x":
            out, at = out + bytes([int(text[at:at + 2], 16)]), at + 2
        elif escape == "(":
            end = text.index(")", at)
            unit, times = text[at:end].rsplit("*", 1)
            out, at = out + unescape(unit) * min(int(times), 40), end + 1
        else:
            out += ESCAPES[escape]
    return out


def seed(kind, head):
    if kind == "request":
        return "request", b"GET / HTTP/1.1\r\nHost: a.test\r\n" + head + b"\r\n"
    if kind == "response":
        return "response", b"HTTP/1.1 200 OK\r\n" + head + b"\r\n"
    if kind in ("raw-request", "raw-response"):
        return kind[4:], head
    if kind in ("chunks", "trailers"):
        return "chunk", head if kind == "chunks" else b"0\r\n" + head
    return "h2", b"\xfe".join(line.replace(b": ", b"\xfd", 1) for line in head.split(b"\n") if line)


number = 0
for path in sorted(glob.glob(os.path.join(os.path.dirname(__file__), "../tests/heads/*.txt"))):
    for line in open(path):
        if line.startswith("#") or not line.strip():
            continue
        columns = [column.strip() for column in line.rstrip("\n").split(" |")]
        target, head = seed(columns[0].split("@")[0].split("/")[0], unescape(columns[1]))
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        number += 1
        with open(os.path.join(folder, f"{number:04}"), "wb") as file:
            file.write(FRONT[target] + head)
print(f"{number} seeds")
