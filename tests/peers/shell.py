"""Types lines into an interactive shell, presses Tab after each, and prints what has become of them as JSON.

usage: shell.py SETUP LINE... -- SHELL ARGUMENT...

SETUP is a file that the shell reads first. It must bind Ctrl-G to write the line to the FIFO in $LINES_TO, and a newline.
"""

import fcntl
import json
import os
import pty
import select
import struct
import sys
import tempfile
import termios
import time

PATIENCE = 90


def main():
    cut = sys.argv.index("--")
    setup, lines, shell = sys.argv[1], sys.argv[2:cut], sys.argv[cut + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "lines")
        os.mkfifo(path)
        fifo = os.open(path, os.O_RDWR)
        child, terminal = pty.fork()
        if child == 0:
            os.execvpe(shell[0], shell, dict(os.environ, LINES_TO=path, TERM="xterm"))
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        os.write(terminal, f"source {setup}\r".encode())
        told(terminal, fifo)
        completed = []
        for line in lines:
            # Ctrl-U clears what is left of the line before.
            os.write(terminal, b"\x15" + line.encode() + b"\t\x07")
            completed.append(told(terminal, fifo))
        os.kill(child, 9)
        os.waitpid(child, 0)
    print(json.dumps(completed))


def told(terminal, fifo):
    """The next line from the FIFO. What the shell draws is read and thrown away."""
    text, drawn, end = b"", b"", time.monotonic() + PATIENCE
    while not text.endswith(b"\n"):
        ready, _, _ = select.select([terminal, fifo], [], [], max(0, end - time.monotonic()))
        if not ready:
            sys.exit(f"the shell does not answer; it has drawn {drawn!r}")
        if terminal in ready:
            drawn += os.read(terminal, 65536)
        if fifo in ready:
            text += os.read(fifo, 65536)
    return text.decode().rstrip("\n")


main()
