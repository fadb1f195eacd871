"""Where the service is."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Address:
    """A base URL in parts. `authority` is for people and for the header `host`: without a user and password."""

    url: str
    is_tls: bool
    host: str
    port: int
    authority: str
    path: str
    # What a user and password in the URL become in the header `authorization`.
    authorization: str | None

    @classmethod
    def of(cls, base_url: str) -> Address:
        if not isinstance(base_url, str) or not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, not {base_url!r}")
        url = base_url.rstrip("/")
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").encode("ascii" if (parts.hostname or "").isascii() else "idna").decode()
        except ValueError as error:  # It may quote a password.
            raise ValueError(f"base_url is no URL: {str(error).split(':')[0]}") from None
        if not host:
            raise ValueError("base_url has no host")
        if parts.query or parts.fragment:
            raise ValueError("base_url must not have a query or a fragment")
        default = _DEFAULT_PORTS[parts.scheme]
        bracketed = f"[{host}]" if ":" in host else host
        user = parts.username is not None
        secret = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        return cls(
            url=url,
            is_tls=parts.scheme == "https",
            host=host,
            port=default if port is None else port,
            authority=bracketed if port in (None, default) else f"{bracketed}:{port}",
            path=quote(parts.path, safe="/%:@!$&'()*+,;=~"),
            authorization=f"Basic {b64encode(secret).decode()}" if user else None,
        )

    @property
    def origin(self) -> str:
        """Such as `https://checkpoints:5003`."""
        return f"{'https' if self.is_tls else 'http'}://{self.authority}"
