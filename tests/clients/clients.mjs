// The openai package and Vercel's AI SDK: a chat, a stream, a tool call, a typed answer. Argument: the base URL.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText, tool } from "ai";
import OpenAI from "openai";

const baseURL = process.argv[2];
const prompt = "Write one sentence about the sea.";
const messages = [{ role: "user", content: prompt }];
const city = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 } },
  required: ["city"],
  additionalProperties: false,
};

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const fields = { model: "default", messages, temperature: 0, max_tokens: 40 };
const whole = (await client.chat.completions.create(fields)).choices[0].message.content;
assert.match(whole, /sea/);
let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...fields, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
}
assert.equal(streamed, whole);
const called = await client.chat.completions.create({
  ...fields,
  tools: [{ type: "function", function: { name: "get_weather", parameters: city } }],
  tool_choice: "required",
});
assert.deepEqual(Object.keys(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments)), ["city"]);
const response = await client.responses.create({ model: "default", input: prompt, temperature: 0, max_output_tokens: 40 });
assert.equal(response.output_text, whole);

const local = createOpenAICompatible({ name: "local", baseURL, supportsStructuredOutputs: true });
const options = { model: local("default"), prompt, temperature: 0, maxOutputTokens: 40, maxRetries: 0 };
assert.equal((await generateText(options)).text, whole);
let text = "";
for await (const piece of streamText(options).textStream) {
  text += piece;
}
assert.equal(text, whole);
const tools = { get_weather: tool({ description: "The weather.", inputSchema: jsonSchema(city) }) };
const { toolCalls } = await generateText({ ...options, tools, toolChoice: "required" });
assert.equal(toolCalls[0].toolName, "get_weather");
assert.deepEqual(Object.keys(toolCalls[0].input), ["city"]);
const { output } = await generateText({ ...options, output: Output.object({ schema: jsonSchema(city) }) });
assert.deepEqual(Object.keys(output), ["city"]);
console.log("done");
