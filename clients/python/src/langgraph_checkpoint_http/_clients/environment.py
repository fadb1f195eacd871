"""What the environment says about the way to the service: proxies, and the authorities that are trusted."""

from __future__ import annotations

import os
import ssl
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.request import getproxies

import certifi

from langgraph_checkpoint_http._clients.address import Address


def proxy_for(address: Address) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY name, unless NO_PROXY excepts the address.

    As httpx reads them; here NO_PROXY may have ranges of addresses, too (`10.0.0.0/8`).
    """
    proxies = getproxies()
    proxy = proxies.get("https" if address.is_tls else "http") or proxies.get("all")
    if not proxy or any(_excepts(entry.strip().lower(), address) for entry in proxies.get("no", "").split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _excepts(entry: str, address: Address) -> bool:
    if entry == "*":
        return True
    scheme, _, rest = entry.rpartition("://")
    if not rest or scheme not in ("", "all", "https" if address.is_tls else "http"):
        return False
    try:
        network = ip_network(rest.strip("[]"), strict=False)
    except ValueError:
        pass
    else:
        return _is_in(address.host, network)
    host, colon, port = rest.rpartition(":")
    if not colon:
        host = rest
    elif port != str(address.port):
        return False
    name = address.host.lower()
    if scheme and not host.startswith("*"):
        return name == host
    host = host.lstrip("*")
    return name.endswith(host) if host.startswith(".") else name == host or name.endswith(f".{host}")


def _is_in(host: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_address(host) in network
    except ValueError:
        return False


def trusted_authorities() -> ssl.SSLContext:
    """Those of SSL_CERT_FILE or SSL_CERT_DIR, else the public ones."""
    for variable, option in (("SSL_CERT_FILE", "cafile"), ("SSL_CERT_DIR", "capath")):
        path = os.environ.get(variable)
        if path:
            try:
                context = ssl.create_default_context(**{option: path})  # type: ignore[arg-type]
            except OSError as error:
                raise ValueError(f"{variable}: no certificates can be read from {path}: {error}") from error
            break
    else:
        context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
