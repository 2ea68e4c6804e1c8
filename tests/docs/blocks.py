#!/usr/bin/env python3
"""Writes the files that a page shows as code, "```cpp file=PATH", below a folder.

    blocks.py PAGE FOLDER PATH...     exit code 1 unless the page has each of these paths once
"""
import os
import re
import sys

BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main(page, folder, *paths):
    with open(page, encoding="utf-8") as file:
        blocks = BLOCK.findall(file.read())
    if sorted(path for path, _ in blocks) != sorted(paths):
        print(f"{page} shows {sorted(path for path, _ in blocks)}, and what is built are {sorted(paths)}")
        return 1
    for path, text in blocks:
        full = os.path.join(folder, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
