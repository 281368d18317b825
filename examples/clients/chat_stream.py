"""A streamed chat completion with openai-python; a repeated request replays the stream."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:8080/v1"))

response = client.chat.completions.with_raw_response.create(
    model="gpt-6-luna",
    messages=[{"role": "user", "content": "Say hello."}],
    reasoning_effort="none",
    temperature=0,
    stream=True,
)
for event in response.parse():
    print(event.choices[0].delta.content or "", end="", flush=True)
print("\nX-Cache:", response.headers["x-cache"])
