"""Runs a script that can reach nothing but loopback: on_loopback.py LOG SCRIPT [ARGUMENT]…

What it tries to reach beyond that fails, and is written to LOG, one line each.
"""

import ipaddress
import runpy
import sys

log, *sys.argv = sys.argv[1:]
LOCAL = ("localhost", "127.0.0.1", "::1")


def is_local(host):
    if host in LOCAL or not host:
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        # A Unix socket's address is a path.
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if not is_local(host):
        with open(log, "a", encoding="utf-8") as file:
            print(f"{event} {host}", file=file)
        raise PermissionError(f"{event} {host}: only loopback may be reached")


sys.addaudithook(watch)
runpy.run_path(sys.argv[0], run_name="__main__")
