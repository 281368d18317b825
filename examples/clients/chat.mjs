// A chat completion with openai for Node.js.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://localhost:8080/v1",
});

const { data, response } = await client.chat.completions
  .create({
    model: "gpt-6-luna",
    messages: [{ role: "user", content: "Say hello." }],
    reasoning_effort: "none",
    temperature: 0,
  })
  .withResponse();
console.log(data.choices[0].message.content);
console.log("X-Cache:", response.headers.get("x-cache"));
