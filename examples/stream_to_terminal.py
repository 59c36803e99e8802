"""Print a text as it is made. Ctrl-C stops it, at the provider too."""

import asyncio
import os
import sys

from aichats_client import Client, ClientError


async def main(prompt: str) -> None:
    async with Client(os.environ.get("NATS_URL")) as ai:
        try:
            async for piece in ai.text(prompt, timeout=120):
                print(piece, end="", flush=True)
        except ClientError as error:
            sys.exit(f"\n{error}" + (" (trying again may help)" if error.retryable else ""))
    print()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "Say hi"))
