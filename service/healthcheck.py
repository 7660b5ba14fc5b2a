"""The health check of a container, `python -m normfold.service.healthcheck`: is the service in it ready?

Leaves with 0 if it is, and otherwise with 1 and the reason. It loads nothing but the standard library, since it runs
every few seconds beside the service, on the processors that the service has.
"""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_S = 4.0


def main() -> None:
    """Ask the service on NORMFOLD_PORT of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("NORMFOLD_PORT", "8000")), _TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"The service does not answer: {error}")
    finally:
        connection.close()
    if answer.status != http.client.OK:
        sys.exit(text)


if __name__ == "__main__":
    main()
