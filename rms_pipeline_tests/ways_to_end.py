"""Ends in the way that its argument names: how a fork of the tests ends is held against Python."""

import atexit
import sys
import threading
import time


def later() -> None:
    time.sleep(0.05)
    sys.stdout.write("a thread has ended\n")


if __name__ == "__main__":
    atexit.register(sys.stdout.write, "at exit\n")
    threading.Thread(target=later).start()
    match sys.argv[1]:
        case "code":
            sys.exit(7)
        case "words":
            sys.exit("why it ended")
        case "error":
            raise ValueError("what went wrong")
        case "interrupt":
            raise KeyboardInterrupt
