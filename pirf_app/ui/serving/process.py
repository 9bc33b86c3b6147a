"""The server's process: the address that it is asked to listen on, its folder for temporary files, and its end.

Imported before anything that takes long to import, so that what is wrong is said at once.
"""

import errno
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a server that crashed has left stays there
    fcntl = None

PORTS = ("PORT", "GRADIO_SERVER_PORT")  # variables that name a port, the first that is set counts
PREFIX, LOCK = "pirf-server-", "in-use"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ServingError(Exception):
    """The server cannot do what it was asked to; the message is one sentence."""


class Stopped(SystemExit):
    """The process was asked to end, by a signal."""


def asked_port(environment: Mapping[str, str]) -> int | None:
    """The port that the environment asks for, if it does. Raises ServingError."""
    asked = [(name, environment[name]) for name in PORTS if environment.get(name)]
    for name, text in asked:  # gradio reads the second one too
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
            raise ServingError(f"{name} must be a whole number from 1 to 65535, not {text[:40]!r}")
    return int(asked[0][1]) if asked else None


def check_address(host: str, port: int | None) -> None:
    """Raises ServingError where `host` is no address of this machine, or where `port`, if there is one, is not free."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # elsewhere this would let two servers have the same port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except (OSError, UnicodeError) as error:
        raise ServingError(refusal(error, host, port)) from None


def refusal(error: Exception, host: str, port: int | None) -> str:
    """What to do about an address that cannot be listened on."""
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return f"port {port} is taken: end what uses it, or set PORT to another one"
    if code in (errno.EACCES, errno.EPERM):
        return f"port {port} may not be used by this user: set PORT to one from 1024 on"
    return f"{host[:80]!r} is no address of this machine: set GRADIO_SERVER_NAME to 127.0.0.1, or to 0.0.0.0 for all"


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[dict]:
    """Around everything that the server does: gives the address to listen on, its parts named as gradio names them, and
    sees to the temporary files. Where it cannot listen there the process ends with one sentence and exit code 2."""
    host = environment.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if "SPACE_ID" in environment else "127.0.0.1")
    try:
        port = asked_port(environment)
        check_address(host, port)
        with temporary_files():
            try:
                yield {"server_name": host, "server_port": port}
            except OSError as error:
                if "empty port" not in str(error):  # gradio's words where it has looked for one in vain
                    raise
                raise ServingError(f"{host} has no port free for this app: set PORT to one that is") from None
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def temporary_files() -> Iterator[None]:
    """A folder for all temporary files of this process, those that gradio serves included. It goes at the end of the
    block, and that of a server which could not see to it goes when the next one starts. In the block SIGTERM and SIGINT
    end the process, once the folder is gone."""
    try:
        parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent)
        folder, lock = locked_folder(parent)
    except OSError as error:
        raise ServingError(f"there is no room for temporary files ({error.strerror}): set TMPDIR to a folder") from None
    os.environ["GRADIO_TEMP_DIR"], tempfile.tempdir = str(folder / "gradio"), str(folder)
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    if hasattr(os, "register_at_fork"):  # a process that works for this one ends alone
        os.register_at_fork(after_in_child=lambda: [signal.signal(*known) for known in before.items()])
    with lock:
        try:
            yield
        except Stopped:
            remove(folder)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)  # otherwise threads that compute would be waited for, or torch abort when it is cut off
        finally:
            remove(folder)


def stop(number: int, _frame: object) -> None:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # once is enough
    raise Stopped(0)


def locked_folder(parent: Path) -> tuple[Path, TextIOWrapper]:
    """A new folder, and the open file in it that is locked for as long as this process lives."""
    made = Path(tempfile.mkdtemp(prefix="pirf-new-", dir=parent))
    lock = open(made / LOCK, "w")  # noqa: SIM115 - for as long as the process lives
    if fcntl:
        fcntl.flock(lock, fcntl.LOCK_EX)
    return made.rename(parent / made.name.replace("pirf-new-", PREFIX)), lock  # found by others once it is locked


def sweep(parent: Path) -> None:
    """Removes the folders of servers that are no more."""
    for folder in parent.glob(f"{PREFIX}*") if fcntl else ():
        with suppress(OSError), open(folder / LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its server lives
            remove(folder)


def remove(folder: Path) -> None:
    """Deletes a folder, also under the hands of threads that write to it: they do not find it any more."""
    gone = folder.with_name(folder.name + ".gone")
    with suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
