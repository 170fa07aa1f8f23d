"""The typeflags of tar headers. POSIX.1-2008, pax, "ustar Interchange Format"."""

FILE, HARD_LINK, LINK, CHARACTER_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0", b"1", b"2", b"3", b"4", b"5", b"6",
)  # fmt: skip
