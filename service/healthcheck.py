"""Health check of a container, `python -m normfold.service.healthcheck`.

The exit code is 0 if the service is ready, otherwise 1, with the reason on standard error. It imports the standard
library only, since it runs every few seconds on the processors of the service.
"""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_S = 4.0


def main() -> None:
    """Request the readiness of the service on NORMFOLD_PORT of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("NORMFOLD_PORT", "8000")), _TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/ready")
        response = connection.getresponse()
        text = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"The service does not answer: {error}")
    finally:
        connection.close()
    if response.status != http.client.OK:
        sys.exit(text)


if __name__ == "__main__":
    main()
