"""What holds for all tests, and for all that they start."""

import os

from aichats_worker.starting import begin

# Nothing here asks a host that the system's authorities vouch for, and each of the hundreds of processes would read all
# of them: a tenth of its start. Before aiohttp, which reads them when it is imported.
os.environ["SSL_CERT_FILE"] = os.devnull
# What is imported and collected stays to the end; conftest.py goes on from there.
begin()
