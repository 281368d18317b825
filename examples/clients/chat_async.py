"""Two simultaneous chat completions with openai-python and asyncio.

The requests are identical and deterministic, so the proxy sends only one of them to the upstream.
"""

import asyncio
import os

from openai import AsyncOpenAI


async def complete(client: AsyncOpenAI) -> str:
    response = await client.chat.completions.with_raw_response.create(
        model="gpt-6-luna",
        messages=[{"role": "user", "content": "Say hello."}],
        reasoning_effort="none",
        temperature=0,
    )
    print("X-Cache:", response.headers["x-cache"])
    return response.parse().choices[0].message.content or ""


async def main() -> None:
    base_url = os.environ.get("OPENAI_BASE_URL", "http://localhost:8080/v1")
    async with AsyncOpenAI(base_url=base_url) as client:
        first, second = await asyncio.gather(complete(client), complete(client))
    assert first == second
    print(first)


asyncio.run(main())
