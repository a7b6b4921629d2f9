"""What an OpenAI-compatible server's failure means, in words, with what a person can do about it.

Shared by the LLM and the embedder. The key is never put into a message, also where the server repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from afterword.errors import AfterwordError, BadAnswer, Outage

if TYPE_CHECKING:
    import openai

SAID = 200  # characters of a server's own message that are passed on
_KEY_WORDS = ("api key", "api_key", "apikey")
_MONEY_WORDS = ("quota", "balance", "billing", "credit")


@dataclass(frozen=True, slots=True)
class Service:
    """Whom a message is about, and which settings (`AFTERWORD_LLM` …) name it."""

    outage: type[Outage]
    base_url: str
    model: str
    setting: str
    api_key: str = field(default="", repr=False)

    def down(self, cause: str, fix: str, retry_after: float | None = None, *, said: str = "") -> Outage:
        """`said` is what of the cause are the server's own words."""
        clean = self._clean
        return self.outage(clean(cause), fix=clean(fix), retry_after=retry_after, said=clean(said))

    def bad(self, cause: str, *, said: str = "") -> BadAnswer:
        return BadAnswer(self._clean(cause), said=self._clean(said))

    def _clean(self, text: str) -> str:
        return text.replace(self.api_key, "…") if self.api_key else text


def failures() -> tuple[type[Exception], ...]:
    """What a call may raise: what the client knows, and what comes of an answer that is no JSON (`ValueError`) or of
    another shape than the protocol's."""
    import openai  # a third of a second's work, done when the client was made

    return (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError)


def explained(error: Exception, service: Service) -> AfterwordError:
    """The failure of a call as an `Outage` of the service's kind, or `BadAnswer` where the input is to blame."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return _status(error, service)
    if isinstance(error, openai.APITimeoutError):
        return service.down(
            f"no connection to {service.base_url} in time",
            f"see that the server runs and can be reached, or set {service.setting}_BASE_URL",
        )
    if isinstance(error, openai.APIConnectionError) and isinstance(error.__cause__, Outage):
        return error.__cause__  # our own refusal of an answer
    if isinstance(error, openai.APIConnectionError):
        return _connection(error, service)
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIResponseValidationError):
        if is_about_input(error):
            return service.bad(f"{service.model} refused the input: {_said(error)}", said=_said(error))
        return service.down(
            f"{service.base_url} failed in the middle of its answer: {_said(error)}",
            "look at the server's log",
            said=_said(error),
        )
    return service.down(
        f"{service.base_url} answered with something that is not the OpenAI protocol",
        f"set {service.setting}_BASE_URL to the address that ends in /v1",
    )


def too_slow(service: Service, seconds: float, setting: str) -> Outage:
    """No answer within a deadline of ours."""
    return service.down(
        f"{service.base_url} gave no answer within {seconds:g} s",
        f"look at the server's load, take a smaller model, or raise {setting}",
    )


def is_about_input(error: openai.APIError) -> bool:
    """Whether the server says that the text is too long for the model."""
    words = f"{error.code or ''} {_said(error)}".lower()
    long = (
        "context_length",
        "context length",
        "context window",
        "too long",
        "too large",
        "maximum context",
        "too many",
    )
    return any(part in words for part in long) and "requests" not in words


def _connection(error: openai.APIConnectionError, service: Service) -> Outage:
    causes = list(_causes(error))
    names = {type(cause).__name__ for cause in causes}
    text = str(causes[-1]) if causes else str(error)
    if names & {"UnsupportedProtocol", "InvalidURL", "LocalProtocolError"}:
        return service.down(
            f"{service.base_url!r} is no web address", f"set {service.setting}_BASE_URL to one that begins with http"
        )
    if "CERTIFICATE" in text or "SSL" in text:
        return service.down(
            f"no safe connection to {service.base_url}: {text[:SAID]}", "mend the server's certificate, or the proxy"
        )
    if "ConnectError" in names or "ConnectTimeout" in names:
        return service.down(
            f"nothing answers at {service.base_url}", f"start the server or set {service.setting}_BASE_URL"
        )
    return service.down(
        f"{service.base_url} broke off the connection", "ask again; if it lasts, look at the server's log"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error.__cause__ or error.__context__
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: openai.APIStatusError, service: Service) -> AfterwordError:
    status, said = error.status_code, _said(error)
    words = said.lower()
    if status in (401, 403) or (status == 400 and any(part in words for part in _KEY_WORDS)):
        return _refused(status, service)
    if status == 404:
        return _missing(said, service)
    if status == 402 or (status == 429 and any(part in words for part in _MONEY_WORDS)):
        return service.down(
            f"the account at {service.base_url} has no credit left ({status})",
            "top it up, or choose another server",
            retry_after(error.response.headers),
        )
    if status == 429:
        return service.down(
            f"{service.base_url} has had too many requests (429)",
            "wait a little and ask again, as background work does by itself; or raise the account's limits",
            retry_after(error.response.headers),
        )
    if status in (400, 413, 422):
        why = "is too long for it" if status == 413 or is_about_input(error) else "was refused"
        return service.bad(f"{service.model}: the input {why} ({status}): {said}", said=said)
    return service.down(
        f"{service.base_url} failed with {status}: {said}",
        "ask again, as background work does by itself; if it lasts, look at the server's log",
        retry_after(error.response.headers),
        said=said,
    )


def _refused(status: int, service: Service) -> Outage:
    key = "the key was refused" if service.api_key else "a key is needed"
    return service.down(f"{service.base_url}: {key} ({status})", f"set {service.setting}_API_KEY to a valid key")


def _missing(said: str, service: Service) -> Outage:
    if "model" in said.lower() or service.model in said:
        return service.down(
            f"{service.base_url} has no model {service.model!r}", f"set {service.setting}_MODEL to one that it has"
        )
    return service.down(
        f"{service.base_url} is not the address of an API (404)",
        f"set {service.setting}_BASE_URL to the address that ends in /v1",
    )


def _said(error: openai.APIError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    if isinstance(message, dict | list) or message is None:
        message = error.message
    return " ".join(str(message).split())[:SAID]


def retry_after(headers: object) -> float | None:
    """Seconds of a `Retry-After` header (RFC 9110, 10.2.3: seconds, or a date), None without one that can be read."""
    get = getattr(headers, "get", None)
    value = get("retry-after") if get else None
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(get("date")) if get and get("date") else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None
