import signal
import sys

from .cli.main import main

if __name__ == "__main__":
    # Ended by a signal as by an error: what is half written is cleared away. A training run sees to it that it is kept.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
