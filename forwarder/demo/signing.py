"""Courier's signature, from the sender's side. The receiver's side is written apart, so that each checks the other."""

import hashlib
import hmac


def signed(body: bytes, secret: str, now_ms: int) -> dict[str, str]:
    """Return the headers of a webhook that Courier would sign at `now_ms` (epoch milliseconds).

    HMAC-SHA256 over the time, a dot and the raw body, in lower-case hex (Courier: webhooks).
    """
    digest = hmac.new(secret.encode(), f"{now_ms}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Content-Type": "application/json", "courier-signature": f"t={now_ms},signature={digest}"}
