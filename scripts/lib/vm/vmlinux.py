"""Takes the ELF kernel out of a compressed image: vmlinux.py VMLINUZ VMLINUX. Debian's 6.1 is compressed by xz."""

import lzma
import sys

MAGIC = b"\xfd7zXZ\0"


def main(image, out):
    with open(image, "rb") as file:
        content = file.read()
    at = content.find(MAGIC)
    if at < 0:
        sys.exit(f"{image} holds nothing that xz has compressed; this script knows no other way")
    kernel = lzma.LZMADecompressor().decompress(content[at:])
    if kernel[:4] != b"\x7fELF":
        sys.exit(f"what {image} holds is no ELF file")
    with open(out, "wb") as file:
        file.write(kernel)


main(*sys.argv[1:])
