"""A chat completion with openai-python."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://localhost:8080/v1"))

response = client.chat.completions.with_raw_response.create(
    model="gpt-6-luna",
    messages=[{"role": "user", "content": "Say hello."}],
    reasoning_effort="none",
    temperature=0,
)
print(response.parse().choices[0].message.content)
print("X-Cache:", response.headers["x-cache"])
