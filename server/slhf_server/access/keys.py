"""API keys, kept as SHA-256, each with a rate, a concurrency, a day's tokens and a priority of its own."""

import hashlib
import hmac
import math
import re
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from slhf_server.access.spending import Now, Spending, utc_now
from slhf_server.errors import BadRequest, InvalidAPIKey, RateLimited
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.profiles import NO_PROFILE
from slhf_server.settings.server import Settings
from slhf_server.settings.yaml_text import number, read_file

if TYPE_CHECKING:
    from slhf_server.access.shared_limits import SharedLimits

_Clock = Callable[[], float]


class KeyEntry(BaseModel):
    """One entry of the keys file. A limit that is left out is the server's default; null means unlimited."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The key's name, which stands in the log and never in a metric."""
    sha256: Annotated[str, StringConstraints(to_lower=True)] = Field(pattern=r"^[0-9a-fA-F]{64}$")
    """The SHA-256 of the key, in hexadecimal digits."""
    requests_per_minute: int | None = Field(default=None, gt=0)
    concurrency: int | None = Field(default=None, gt=0)
    tokens_per_day: int | None = Field(default=None, gt=0)
    """Of prompts and completions, from midnight to midnight of UTC."""
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    """Of its requests that ask for none, and the soonest that they may ask for (lower is sooner)."""

    profile: str | None = None
    """Of its requests that name none, before the served model's."""

    @field_validator("requests_per_minute", "concurrency", "tokens_per_day", "priority", mode="before")
    @classmethod
    def _as_in_settings(cls, value: Any) -> Any:
        return number(value.strip()) if isinstance(value, str) else value


_Entries = TypeAdapter(list[KeyEntry])


class Key:
    """One client: what it may use, and what it uses now."""

    def __init__(self, entry: KeyEntry, clock: _Clock, now: Now = utc_now) -> None:
        self.entry = entry
        self.running = 0
        self.spending = Spending(now)
        self._clock = clock
        self._tokens = math.inf  # in the bucket; infinite until the first use, then at most a minute's worth
        self._filled_at = clock()

    @contextmanager
    def place(self, *, rated: bool = True) -> Iterator[None]:
        """Count as one request, and as running for as long as it is held. Raises RateLimited.

        `rated`: whether its rate is counted here.
        """
        if self.entry.concurrency is not None and self.running >= self.entry.concurrency:
            raise RateLimited(f"this API key may run {self.entry.concurrency} requests at once", retry_after=1)
        if rated:
            self.take()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def priority(self, asked: int | None) -> int:
        """The priority of a request. Raises BadRequest for one that is sooner than the key's own."""
        soonest = self.entry.priority
        if asked is not None and asked < soonest:
            message = f"priority is {asked}, and this API key may ask for {soonest} or a higher number, which is later"
            raise BadRequest(message, param="priority")
        return soonest if asked is None else asked

    def check_budget(self, spent: int) -> None:
        """Raises RateLimited once the day's tokens are spent. What runs by then is finished, and may go beyond them."""
        most = self.entry.tokens_per_day
        if most is not None and spent >= most:
            message = f"this API key may use {most} tokens per day (UTC), and has used {spent}"
            raise RateLimited(message, retry_after=self.spending.seconds_left)

    def take(self) -> None:
        """Take a token from a bucket that holds a minute's worth and fills evenly. Raises RateLimited."""
        per_minute = self.entry.requests_per_minute
        if per_minute is None:
            return
        now = self._clock()
        self._tokens = min(per_minute, self._tokens + (now - self._filled_at) * per_minute / 60)
        self._filled_at = now
        if self._tokens < 1:
            raise self.too_many((1 - self._tokens) * 60 / per_minute)
        self._tokens -= 1

    def too_many(self, seconds: float) -> RateLimited:
        """The error of a key that may make its next request in so many seconds."""
        message = f"this API key may make {self.entry.requests_per_minute} requests per minute"
        return RateLimited(message, retry_after=math.ceil(seconds))


class Keyring:
    """The keys of the environment and of the file. Raises SettingsError, without a secret, for what cannot be read."""

    def __init__(self, settings: Settings, clock: _Clock = time.monotonic, now: Now = utc_now) -> None:
        self._settings = settings
        self._clock, self._now = clock, now
        self._keys: dict[str, Key] = {}
        given = settings.cache_salt_secret
        self._salt_secret = secrets.token_bytes() if given is None else given.get_secret_value().encode()
        self.on_store_failure: Callable[[], None] = lambda: None
        self._shared = self._shared_limits()
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def reload(self) -> None:
        """Read the keys again; a name that stays keeps its counters. Raises SettingsError and keeps the old keys."""
        keys: dict[str, Key] = {}
        for entry in self._entries():
            key = self._keys.get(entry.name) or Key(entry, self._clock, self._now)
            keys[entry.name] = key
            key.entry = entry
        self._keys = keys

    def _entries(self) -> list[KeyEntry]:
        return _entries(self._settings)

    @asynccontextmanager
    async def place(self, key: Key) -> AsyncGenerator[None, None]:
        """Hold a place of the key's. Its rate is that of all replicas, where they share a store. Raises RateLimited."""
        per_minute = None if self._shared is None else key.entry.requests_per_minute
        with key.place(rated=per_minute is None):
            if self._shared is not None and per_minute is not None:
                wait = await self._shared.take(key.entry.name, per_minute)
                if wait is None:
                    key.take()
                elif wait:
                    raise key.too_many(wait)
            yield

    async def spent_today(self, key: Key) -> int:
        """The key's tokens of this day, on all replicas where they share a store."""
        shared = None if self._shared is None else await self._shared.tokens(key.entry.name, key.spending.day)
        return max(shared or 0, key.spending.today)

    async def book(self, key: Key, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a request with what it has spent."""
        key.spending.add(prompt_tokens, completion_tokens)
        if self._shared is not None and (tokens := prompt_tokens + completion_tokens):
            await self._shared.book(key.entry.name, key.spending.day, tokens)

    async def close(self) -> None:
        """Close the connections to the store."""
        if self._shared is not None:
            await self._shared.close()

    def _shared_limits(self) -> "SharedLimits | None":
        store = self._settings.limits.store
        if store is None:
            return None
        try:
            from slhf_server.access.shared_limits import SharedLimits  # imports a client, which only few need

            return SharedLimits(store.get_secret_value(), lambda: self.on_store_failure())
        except ImportError as exc:
            raise SettingsError(f"limits.store: it needs slhf-server[redis] ({exc.name} is not installed)") from exc
        except ValueError as exc:
            raise SettingsError("limits.store: the address cannot be read") from exc

    def cache_salt(self, name: str | None) -> str | None:
        """What separates a key's part of the engine's prefix cache from the others'; None: nothing does.

        It is made of the key's name, so that a key's successor finds its cache, and keyed by a secret, so that no
        client can compute it.
        """
        if name is None or self._settings.cache_isolation == "none":
            return None
        return hmac.new(self._salt_secret, name.encode(), "sha256").hexdigest()

    def key_of(self, authorization: bytes, x_api_key: bytes = b"") -> Key:
        """The key that a request's headers hold, of which `Authorization` is read first. Raises InvalidAPIKey.

        Every key is compared, so that timing reveals nothing.
        """
        scheme, _, presented = authorization.partition(b" ") if authorization else (b"bearer", b"", x_api_key)
        if scheme.lower() != b"bearer" or not presented.strip():
            raise InvalidAPIKey("no API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        digest = hashlib.sha256(presented.strip()).hexdigest()
        found = [key for key in self._keys.values() if secrets.compare_digest(key.entry.sha256, digest)]
        if not found:
            raise InvalidAPIKey("the API key is not one of this server's")
        return found[0]


class OperatorsKeyring(Keyring):
    """The one key of the operators' port, which no client has."""

    def _shared_limits(self) -> None:
        return None

    def _entries(self) -> list[KeyEntry]:
        key = self._settings.operators_key()
        return [] if key is None else [KeyEntry(name="admin", sha256=_hashed(key.get_secret_value()))]


def _entries(settings: Settings) -> list[KeyEntry]:
    """Every key, with the server's limits where it sets none itself."""
    entries: list[KeyEntry] = []
    if settings.api_keys is not None:
        entries += _checked("api_keys", list(_pairs(settings.api_keys.get_secret_value())))
    if settings.api_keys_file is not None:
        entries += _from_file(settings.api_keys_file)
    for key in ("name", "sha256"):
        values = [getattr(entry, key) for entry in entries]
        for entry in entries:
            if values.count(getattr(entry, key)) > 1:
                raise SettingsError(f"API keys: the {key} of {entry.name!r} is there more than once")
    operators = settings.operators_key()
    for entry in entries:
        if operators is not None and entry.sha256 == _hashed(operators.get_secret_value()):
            raise SettingsError(
                f"API keys: {entry.name!r} has the operators' key (admin_key), which no client may have"
            )
        if entry.profile not in (None, NO_PROFILE, *settings.profiles):
            raise SettingsError(f"API keys: the profile of {entry.name!r} is none of this server's")
    limits = settings.limits
    defaults = {
        "requests_per_minute": limits.key_requests_per_minute,
        "concurrency": limits.key_concurrency,
        "tokens_per_day": limits.key_tokens_per_day,
    }
    return [entry.model_copy(update=defaults | entry.model_dump(exclude_unset=True)) for entry in entries]


def _pairs(text: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of `name=key,name2=key2`; keys are hashed at once."""
    for place, pair in enumerate(text.split(","), start=1):
        name, equals, key = pair.strip().partition("=")
        if not equals or not (key := key.strip()):
            raise SettingsError(f"api_keys: entry {place} must be name=key")
        if not re.fullmatch("[!-~]+", key):  # no client could send it
            raise SettingsError(f"api_keys: entry {place}: a key has visible ASCII characters alone; a comma ends it")
        yield {"name": name, "sha256": _hashed(key)}


def _from_file(path: Path) -> list[KeyEntry]:
    where = f"api_keys_file {path}"
    content = read_file("api_keys_file", path)
    if not isinstance(content, list) or not content:
        raise SettingsError(f"{where}: must be a list with an entry {{name, sha256}} for each key")
    return _checked(where, content)


def _checked(where: str, entries: list[Any]) -> list[KeyEntry]:
    """Validate entries. Raises SettingsError without any value, because each may be a secret."""
    try:
        return _Entries.validate_python(entries)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        position, *keys = first["loc"]
        key = next((str(key) for key in keys if re.fullmatch("[a-z0-9_]{1,32}", str(key))), "a key")
        message = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
        hint = " (a plain key is not accepted: see slhf-server-key)" if key not in KeyEntry.model_fields else ""
        place = f"entry {int(position) + 1}{f': {key}' if keys else ''}"
        raise SettingsError(f"{where}: {place}: {message}{hint if keys else ''}") from None


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def main() -> None:
    """Run `slhf-server-key NAME`: print a new key, which is shown only once, and its entry for the keys file."""
    usage = "usage: slhf-server-key NAME"
    if sys.argv[1:] in (["-h"], ["--help"]):
        sys.stdout.write(f"{usage}\n")
        return
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(usage)
    key = f"slhf-{secrets.token_urlsafe(32)}"
    try:
        (entry,) = _checked("slhf-server-key", [{"name": sys.argv[1], "sha256": _hashed(key)}])
    except SettingsError as exc:
        sys.exit(str(exc))
    sys.stdout.write(f'key: {key}\n\n- name: "{entry.name}"\n  sha256: "{entry.sha256}"\n')
