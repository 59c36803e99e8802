"""Fifty image jobs, and a progress bar. Stop it and run it again: what was submitted is not submitted twice."""

import asyncio
import os
import sys
from pathlib import Path

from rich.progress import Progress

from aichats_client import Client, ClientError, JobExists

COUNT = 50


async def one(ai: Client, folder: Path, number: int) -> None:
    job_id = f"{folder.name}-{number}"
    if list(folder.glob(f"{job_id}.*")):
        return
    try:
        job = await ai.submit("image", f"a cat, number {number}", id=job_id)
    except JobExists:
        job = ai.job(job_id)  # by the run before this one
    (await job.image()).save(folder / job_id)


async def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    failed = []
    async with Client(os.environ.get("NATS_URL")) as ai:
        with Progress() as progress:
            task = progress.add_task("images", total=COUNT)

            async def watched(number: int) -> None:
                try:
                    await one(ai, folder, number)
                except ClientError as error:
                    failed.append(f"{number}: {error}")
                progress.advance(task)

            await asyncio.gather(*(watched(number) for number in range(1, COUNT + 1)))
    print(f"{COUNT - len(failed)} images in {folder}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "album")))
