"""Post the calls of stdin to a data plane with rudder-sdk-python, as its users do; print what failed.

rudder_sdk_python.py URL WRITE_KEY gzip|plain < [["track", {"userId": …}], …]
"""

import json
import re
import sys

from rudderstack.analytics.client import Client

url, write_key, packing = sys.argv[1:]
failed: list[str] = []
client = Client(
    write_key, host=url, gzip=packing == "gzip", on_error=lambda error, batch: failed.extend([str(error)] * len(batch))
)
for method, message in json.load(sys.stdin):
    getattr(client, method)(**{re.sub("(?=[A-Z])", "_", name).lower(): value for name, value in message.items()})
client.shutdown()
print(json.dumps(failed))  # noqa: T201 - this is its answer
