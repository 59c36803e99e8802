"""Save an image under a name that says what it is. A script: no event loop."""

import os
import sys

from aichats_client import sync

prompt, name = sys.argv[1:3] if len(sys.argv) > 2 else ("a cat", "cat")
print(sync.image(prompt, servers=os.environ.get("NATS_URL")).save(name))
