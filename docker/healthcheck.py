"""The container's HEALTHCHECK: exit code 0 when the server inside says it is ready, 1 when it does not."""

import http.client
import os
import sys

# http.client rather than urllib.request: it takes no proxy from the environment.
port = int(os.environ.get("TWOPASS_SERVER__PORT", "8000"))
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)  # seconds; HEALTHCHECK itself allows 5
try:
    connection.request("GET", "/readyz")
    response = connection.getresponse()
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer on port {port}: {error}")
if response.status != http.HTTPStatus.OK:
    sys.exit(f"not ready: {response.status} {response.read(2000).decode(errors='replace')}")
