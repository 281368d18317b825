#!/bin/sh
# A chat completion with curl; --include prints the headers, such as X-Cache.
set -eu
curl --silent --show-error --fail --include \
    --header "Authorization: Bearer $OPENAI_API_KEY" \
    --header "Content-Type: application/json" \
    --data '{"model": "gpt-6-luna", "reasoning_effort": "none", "temperature": 0,
             "messages": [{"role": "user", "content": "Say hello."}]}' \
    "${OPENAI_BASE_URL:-http://localhost:8080/v1}/chat/completions"
