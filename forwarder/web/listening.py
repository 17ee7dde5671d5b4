"""Why an address cannot be listened on, in words that name its variable and the remedy."""

import errno


def why_not(variable: str, host: str, port: int, error: OSError) -> str:
    """Return what to tell people of a listener that could not be opened."""
    where = f"{variable}: cannot listen on {host}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{where}, because something listens there already. Stop that, or set another port."
        case errno.EACCES:
            return f"{where}, because that port is for privileged processes. Set one above 1023."
        case _:
            return f"{where} ({error.strerror or type(error).__name__}). Set an address of this machine."
