// A chat completion with openai for Node.js.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://localhost:8080/v1",
});

const { data, response } = await client.chat.completions
  .create({
    model: "gpt-4o-mini",
    messages: [{ role: "user", content: "Say hello." }],
    temperature: 0,
  })
  .withResponse();
console.log(data.choices[0].message.content);
console.log("X-Cache:", response.headers.get("x-cache"));
