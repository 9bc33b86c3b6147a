"""The Hugging Face Hub's own client, with limits: every exchange has a deadline, a greatest size and one sentence for
whatever goes wrong.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and the cache folders mean what they mean to that client.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import httpx2
from huggingface_hub import HfApi, constants, errors, set_client_factory, utils
from huggingface_hub.utils._http import default_client_factory

from .. import __version__
from ..common.checks import InputError
from ..common.text import megabytes

MAX_REPO_BYTES = 512 * 10**6
CONNECT, STALL, FIRST_ANSWER = 5.0, 10.0, 20.0  # seconds
PULL_SECONDS, PUSH_SECONDS = 600.0, 3600.0
BREAKS = 2  # times that a download may break off and go on


class HubError(InputError):
    """What went wrong with the Hub, in one sentence that holds no address and no token."""


@dataclass
class Transfer:
    """One exchange with the Hub: what it may take (seconds from its start, bytes), and how far it is (bytes)."""

    seconds: float = PULL_SECONDS
    limit: int = MAX_REPO_BYTES
    total: int = 0
    done: int = 0
    file: str = ""
    answered: bool = False
    failed: bool = False
    breaks: int = 0
    metering: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        return self.started + self.seconds - time.monotonic()

    def check(self) -> None:
        """Raises HubError once the time is up, or more has come than was said to."""
        if self.left <= 0:
            raise HubError(self.too_slow())
        if self.metering and self.done > self.limit:
            raise HubError(f"more than {megabytes(self.limit)} came from the Hub, which is the limit")

    def too_slow(self) -> str:
        return f"the Hub was too slow: {self.progress()} in {self.seconds:.0f} s"

    def progress(self) -> str:
        return f"{megabytes(self.done)} of {megabytes(self.total)}" if self.total else megabytes(self.done)

    def before(self, request: httpx2.Request) -> None:
        self.check()
        limits = {"connect": CONNECT, "read": STALL, "write": STALL, "pool": STALL}
        request.extensions["timeout"] = {k: max(0.1, min(v, self.left)) for k, v in limits.items()}

    def after(self, response: httpx2.Response) -> None:
        self.answered, self.failed = True, response.status_code >= 500
        if response.status_code == 429:  # the client would sleep for as long as it is told to
            raise HubError(too_many(response))
        response.stream = Metered(response.stream, self)


class Metered(httpx2.SyncByteStream):
    """The body of an answer, counted while it is read."""

    def __init__(self, stream: httpx2.SyncByteStream, transfer: Transfer):
        self.stream, self.transfer = stream, transfer

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self.stream:
                self.transfer.done += len(chunk) if self.transfer.metering else 0
                self.transfer.check()
                yield chunk
        except httpx2.TransportError:
            self.transfer.breaks += 1
            if self.transfer.breaks > BREAKS:
                where = f" of {self.transfer.file}" if self.transfer.file else ""
                raise HubError(f"the download{where} broke off again and again ({self.transfer.progress()})") from None
            raise

    def close(self) -> None:
        self.stream.close()


_active: ContextVar[Transfer | None] = ContextVar("transfer", default=None)


@cache
def _limit_the_client() -> None:
    """Gives huggingface_hub's one HTTP client the hooks that keep an exchange to its `Transfer`. The timeout is for
    requests outside of one: by default they have none. Xet's own client would not ask these hooks, and checkpoints are
    small, so files go by plain HTTP unless HF_HUB_DISABLE_XET says otherwise. The client's warnings name addresses,
    signatures included; what went wrong is told by `reason`."""
    utils.disable_progress_bars()
    utils.logging.set_verbosity_error()
    if not os.environ.get("HF_HUB_DISABLE_XET"):  # "0" keeps Xet
        constants.HF_HUB_DISABLE_XET = True

    def make() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(STALL, connect=CONNECT)
        hooks = client.event_hooks
        hooks["request"].append(lambda request: (t := _active.get()) and t.before(request))
        hooks["response"].append(lambda response: (t := _active.get()) and t.after(response))
        client.event_hooks = hooks
        return client

    set_client_factory(make)


def api(token: str | bool | None = None) -> HfApi:
    """The client. `token`: None for the one this machine is logged in with, if any; False for none."""
    _limit_the_client()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HfApi(endpoint=endpoint, token=token, library_name="pirf", library_version=__version__)


def in_time(transfer: Transfer, call: Callable[[], object], about: str):
    """`call()` on a thread of its own, so that not even a name look-up that hangs outlasts the transfer's time.
    Raises HubError, about `about`, for whatever the Hub, the network or the disk did."""
    outcome: list[tuple] = []

    def work() -> None:
        _active.set(transfer)
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True, name="hub")
    thread.start()
    thread.join(min(FIRST_ANSWER, transfer.left))
    if thread.is_alive() and transfer.answered:
        thread.join(max(0.0, transfer.left) + 1)
    if not outcome:
        waited = time.monotonic() - transfer.started
        late = transfer.too_slow() if transfer.answered else f"the Hub did not answer within {waited:.0f} s"
        raise HubError(f"{about}: {late}")
    result, error = outcome[0]
    if error is None:
        return result
    with explained(about):
        raise error


@contextmanager
def explained(about: str) -> Iterator[None]:
    """Turns errors of the client into a HubError about `about`."""
    try:
        yield
    except HubError as error:
        text = str(error)
        raise HubError(text if text.startswith(about) else f"{about}: {text}") from None
    except InputError:
        raise
    except Exception as error:
        raise HubError(f"{about}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """What an error of the client means, without its address, request id or signature."""
    known: BaseException | None = error
    while known is not None:
        if isinstance(known, HubError):
            return str(known)
        if isinstance(known, errors.OfflineModeIsEnabled):
            return "the Hub cannot be asked, because offline mode is on (HF_HUB_OFFLINE)"
        if isinstance(known, errors.LocalTokenNotFoundError):
            return "it needs a Hugging Face token: set HF_TOKEN or run `hf auth login`"
        if isinstance(known, errors.HfHubHTTPError):
            return refused(known)
        if isinstance(known, httpx2.TimeoutException):
            return "the Hub did not answer in time"
        if isinstance(known, httpx2.RemoteProtocolError | httpx2.ReadError):
            return "the connection to the Hub broke off"
        if isinstance(known, httpx2.TransportError):
            return "the Hub cannot be reached"
        if isinstance(known, OSError) and known.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            return f"the file cannot be stored here ({os.strerror(known.errno).lower()})"
        if "Consistency check failed" in str(known):
            return "the download ended early"
        known = known.__cause__ or known.__context__
    return f"the Hub's answer cannot be used ({type(error).__name__})"


def refused(error: errors.HfHubHTTPError) -> str:
    """An HTTP status as a reason."""
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return f"its owner lets only some accounts in, and this one is not among them ({status})"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision (404)"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "a file that its manifest needs is not there (404)"
    if status == 429:
        return too_many(error.response)
    reasons = {
        401: "there is no such public repository, or the token is not valid (401)",
        402: "the account needs a subscription or credits for this hardware (402)",
        403: "the token does not allow this: it needs write access to that account (403)",
        404: "there is no such repository, or it is private (404)",
        413: "the Hub refuses a file of this size (413)",
    }
    return reasons.get(status) or (
        f"the Hub has a problem of its own ({status}): try again later" if status >= 500 else f"refused ({status})"
    )


def too_many(response: httpx2.Response) -> str:
    limit = utils.parse_ratelimit_headers(response.headers)
    wait = str(limit.reset_in_seconds) if limit else response.headers.get("Retry-After", "")
    after = f"in {wait} s" if wait.isdigit() else "later"
    return f"the Hub has had too many requests from here (429): try again {after}"
