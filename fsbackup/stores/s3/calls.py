"""One request to the service: of the data plane in a thread, of the control plane through the boto client."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from fsbackup import __version__
from fsbackup.stores.s3.attempts import ClientCalls, Exchanges, Receive, Reply, Request
from fsbackup.stores.s3.control import Control
from fsbackup.stores.s3.errors import CallContext
from fsbackup.stores.s3.progress import Progress
from fsbackup.stores.s3.settings import Address, Settings, encode_query
from fsbackup.stores.s3.sign import Signer
from fsbackup.threads import Workers

if TYPE_CHECKING:
    from fsbackup.stores.s3.http import Exchange, Http

T = TypeVar("T")

USER_AGENT = f"fsbackup/{__version__}"
#: Requests at once per store, each with a thread and a connection; more wait, which counts towards the timeout.
_THREADS = 64


class Calls:
    """The requests of one store.

    Parameters
    ----------
    name
        The backend's name, for errors.
    settings
        Endpoint, credentials and timeout: the longest time in seconds without progress, over all attempts of one
        request and the waits between them.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.timeout = settings.timeout
        self.control = Control(settings, USER_AGENT)
        self.address = Address(settings)
        self.workers = Workers(f"s3-{name}", _THREADS)
        self.signer = Signer(
            settings.access_key_id, settings.secret_access_key, settings.session_token, settings.region
        )
        self._settings = settings

    @cached_property
    def http(self) -> Http:
        """The connections; created by the first request, which imports the library."""
        from fsbackup.stores.s3.http import Http

        return Http(self.address, self.timeout, self._settings.ca_bundle)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts that no error may contain."""
        proxy = self.http.proxy if "http" in vars(self) else None
        return self._settings.secrets + (proxy.secrets if proxy else ())

    async def send(
        self,
        context: CallContext,
        request: Request,
        receive: Receive[T],
        progress: Progress | None = None,
    ) -> Reply[T]:
        """Make a request of the data plane and return the response.

        Parameters
        ----------
        context
            What the request is for, and its timeout.
        request
            The request.
        receive
            Reads the body of a response of success, as `read_small` does.
        progress
            Hears of the bytes that move.
        """
        return await Exchanges(self, context, request, receive, progress).run()

    def prepare(
        self,
        request: Request,
        receive: Receive[T],
        on_sent: Callable[[int], None],
        on_received: Callable[[int], None],
    ) -> Exchange[T]:
        """Sign a request, and return the exchange for a thread to run."""
        from fsbackup.stores.s3 import connection, http

        path, query = self.address.path(request.key), encode_query(request.query)
        headers = self.signer.sign(request.method, self.address.netloc, path, query, request.headers)
        headers["User-Agent"] = USER_AGENT
        signed = connection.Request(request.method, f"{path}?{query}" if query else path, headers, request.body)
        return http.Exchange(self.http, signed, receive, on_sent, on_received)

    async def request(self, context: CallContext, method: str, **params: Any) -> dict[str, Any]:
        """Make a request of the control plane: call one method of the boto client and return its response."""

        # Creating the client takes time in which the service cannot answer.
        await self.control.client()
        return await ClientCalls(self, context, method, params).run()

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        if "http" in vars(self):
            self.http.close()
        await self.control.close()
