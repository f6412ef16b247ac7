// The Node SDKs that need Node 22, in front of a running gateway. As the SDKs of the
// folder node:
//
//	BASE_URL=http://127.0.0.1:8080 API_KEY=... node sdk.mjs PART
//
// prints one line of JSON for each check.
import assert from 'node:assert/strict';
import { createOpenAI } from '@ai-sdk/openai';
import { jsonSchema, streamText, tool } from 'ai';
import OpenAI from 'openai';

globalThis.AI_SDK_LOG_WARNINGS = false; // they go to stdout

const base = process.env.BASE_URL + '/v1';
const key = process.env.API_KEY;
const openai = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const model = createOpenAI({ baseURL: base, apiKey: key })('tiny'); // of the Responses API

let told;
const used = (prompt, completion) => { told.requests++; told.prompt += prompt; told.completion += completion; };

async function check(name, run) {
  told = { requests: 0, prompt: 0, completion: 0 };
  let error;
  try {
    await run();
  } catch (e) {
    error = e.stack || String(e);
  }
  console.log(JSON.stringify({ name, error, ...told }));
}

const parameters = { type: 'object', properties: { unit: { enum: ['USD', 'EUR'] } }, required: ['unit'], additionalProperties: false };
const calls = [{ unit: 'USD' }, { unit: 'EUR' }];

// streamed runs openai's helper and returns the response and what was streamed of it.
async function streamed(params) {
  const stream = openai.responses.stream({ model: 'tiny', input: 'What does a token cost?', ...params });
  let text = '', args = [], last = -1;
  stream.on('response.output_text.delta', (e) => {
    text += e.delta;
    assert.equal(e.snapshot, text);
  });
  stream.on('response.function_call_arguments.delta', (e) => { args[e.output_index] = e.snapshot; });
  stream.on('event', (e) => {
    assert.equal(e.sequence_number, last + 1, e.type);
    last = e.sequence_number;
  });
  const response = await stream.finalResponse();
  assert.equal(response.status, 'completed');
  assert.equal(response.output_text, text);
  used(response.usage.input_tokens, response.usage.output_tokens);
  return { response, args };
}

// parts runs ai and returns what it made of the stream, by type.
async function parts(params) {
  const parts = {};
  const result = streamText({ model, prompt: 'What does a token cost?', maxRetries: 0, onError() {}, ...params });
  for await (const p of result.fullStream) {
    assert.notEqual(p.type, 'error', String(p.error?.stack ?? p.error));
    (parts[p.type] ??= []).push(p);
  }
  const response = await result.response;
  assert.match(response.id, /^resp_/);
  assert.equal(response.modelId, 'tiny');
  assert(Math.abs(Date.now() - response.timestamp) < 600_000, response.timestamp);
  const usage = await result.usage;
  used(usage.inputTokens, usage.outputTokens);
  return parts;
}

const text = (deltas) => deltas.map((p) => p.text).join('');

const todo = {
  async text() {
    await check('responses, the helper', async () => {
      const { response } = await streamed({ max_output_tokens: 16 });
      assert(response.output_text);
      assert.equal(response.output.length, 1);
    });
    await check('ai', async () => {
      const got = await parts({ maxOutputTokens: 16 });
      assert(text(got['text-delta']));
      assert.equal(got['text-start'].length, 1);
      assert.equal(got['text-end'].length, 1);
      assert.equal(got.finish[0].finishReason, 'stop');
    });
  },

  // The engine's model thinks, speaks and calls a tool twice.
  async calls() {
    await check('responses, the helper, calls', async () => {
      const { response, args } = await streamed({ parallel_tool_calls: true, tools: [{ type: 'function', name: 'price', strict: true, parameters }] });
      assert.deepEqual(response.output.map((o) => o.type), ['reasoning', 'message', 'function_call', 'function_call']);
      assert.match(response.output[0].content[0].text, /The bill grows/);
      assert.match(response.output_text, /I ask twice/);
      assert.deepEqual(response.output.slice(2).map((o) => o.parsed_arguments), calls);
      assert.deepEqual(args.slice(2).map((a) => JSON.parse(a)), calls);
    });
    await check('ai, calls', async () => {
      const got = await parts({ tools: { price: tool({ inputSchema: jsonSchema(parameters) }) } });
      assert.match(text(got['text-delta']), /I ask twice/);
      assert.deepEqual(got['tool-call'].map((c) => [c.toolName, c.input]), calls.map((c) => ['price', c]));
      assert.equal(got['tool-input-start'].length, 2);
      assert.equal(got.finish[0].finishReason, 'tool-calls');
    });
  },
};

await todo[process.argv[2]]();
