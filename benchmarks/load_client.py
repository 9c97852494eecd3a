"""Ask a server as many clients, each for the next answer as soon as it has one, and print what came as JSON (a process of its own).

usage: load_client.py < JSON {"port", "path", "accept", "clients", "seconds" or "requests", "bodies": [[path, type, SHA-256 or null], ...]}

Plain sockets and little else, so that it takes next to no time from the server beside it.
"""

import asyncio
import hashlib
import json
import re
import sys
import time
from pathlib import Path

#: A body in an answer isn't waited for longer.
TIMEOUT = 600


class Client:
    """One client with one connection, which it opens again when the server closes it.

    Parameters
    ----------
    port : int
    requests : list of (bytes, str or None)
        Whole requests in turn, and the digest that the relevance in the answer must have.
    answers : list
        Where each answer is noted: [seconds when asked, when answered, status or what went wrong, bytes].
    """

    def __init__(self, port, requests, answers):
        self.port, self.requests, self.answers = port, requests, answers
        self.reader = self.writer = None

    async def run(self, first, goes_on):
        """Ask until `goes_on` says no."""
        number = first
        while goes_on():
            content, digest = self.requests[number % len(self.requests)]
            number += 1
            begun = time.perf_counter()
            status, size, wait = await self.ask(content, digest)
            self.answers.append([begun, time.perf_counter(), status, size])
            if wait:
                await self.close()
                await asyncio.sleep(wait)
        await self.close()

    async def ask(self, content, digest):
        """Return (status or what went wrong, bytes of the body, seconds to wait)."""
        try:
            async with asyncio.timeout(TIMEOUT):
                if self.writer is None:
                    self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
                self.writer.write(content)
                await self.writer.drain()
                head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                body = await self.reader.readexactly(int(re.search(r"\ncontent-length: (\d+)", head)[1]))
        except (OSError, EOFError, TimeoutError) as error:
            await self.close()
            return type(error).__name__, 0, 0
        status = int(head.split(" ", 2)[1])
        wait = int(found[1]) if (found := re.search(r"\nretry-after: (\d+)", head)) else 0
        if "\nconnection: close" in head:
            await self.close()
        if status == 200 and digest is not None and digest_of(body) != digest:
            status = "other bits"
        return status, len(body), wait

    async def close(self):
        """Close the connection."""
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None


def digest_of(body):
    """Return the SHA-256 of the relevance in an answer: JSON says it, of .npy it is computed."""
    if body.startswith(b"\x93NUMPY"):
        return hashlib.sha256(body[10 + int.from_bytes(body[8:10], "little") :]).hexdigest()
    return re.search(rb'"sha256": "([0-9a-f]{64})"', body)[1].decode()


async def main(port, path, clients, bodies, accept="application/json", seconds=None, requests=None):
    """Run all clients and return their answers."""
    made, answers, left = [], [], iter(range(requests)) if requests else None
    for file, kind, digest in bodies:
        content = Path(file).read_bytes()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        made.append((head.encode() + content, digest))
    end = time.perf_counter() + (seconds or 0)

    def goes_on():
        return time.perf_counter() < end if left is None else next(left, None) is not None

    await asyncio.gather(*(Client(port, made, answers).run(i, goes_on) for i in range(clients)))
    return answers


if __name__ == "__main__":
    begun, used = time.perf_counter(), time.process_time()
    noted = asyncio.run(main(**json.load(sys.stdin)))
    cpu = (time.process_time() - used) / (time.perf_counter() - begun)
    print(json.dumps({"answers": noted, "cpu": cpu}))
