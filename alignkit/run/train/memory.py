"""Keeps freed memory in the process: a training step frees and maps gigabytes of activations again and again."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed blocks of any size instead of returning them to the kernel.

    The kernel zeroes every page it hands out; without this up to a third of a CPU update is spent there. Does nothing
    where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
