// The official Node SDKs in front of a running gateway.
//
//	BASE_URL=http://127.0.0.1:8080 API_KEY=... node sdk.mjs PART
//
// It prints one line of JSON for each check: its name, the error if there was one,
// and what the client was told it had used. The test that runs it holds that
// against the ledger.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const base = process.env.BASE_URL;
const key = process.env.API_KEY || 'none';
const hello = [{ role: 'user', content: 'What does a token cost?' }];

// attempts counts the requests that an SDK sends.
let attempts = 0;
const counting = (...args) => { attempts++; return fetch(...args); };
const openai = (opts) => new OpenAI({ baseURL: base + '/v1', apiKey: key, fetch: counting, ...opts });
const anthropic = (opts) => new Anthropic({ baseURL: base, apiKey: key, authToken: null, fetch: counting, ...opts });

let told;
const used = (prompt, completion) => { told.requests++; told.prompt += prompt; told.completion += completion; };

async function check(name, run) {
  told = { requests: 0, prompt: 0, completion: 0 };
  attempts = 0;
  let error;
  try {
    await run();
  } catch (e) {
    error = e.stack || String(e);
  }
  console.log(JSON.stringify({ name, error, ...told }));
}

// refused wants an error of a class, and so many attempts.
async function refused(promise, Class, status, tries, code) {
  const error = await promise.then(() => assert.fail('no error'), (e) => e);
  assert(error instanceof Class, `${error.stack}\nis no ${Class.name}`);
  assert.equal(error.status, status);
  assert.equal(attempts, tries, 'attempts');
  assert.match(error.requestID, /^req_[0-9a-z]{24}$/);
  if (code !== undefined) assert.equal(error.code, code);
  return error;
}

const ask = (client, more) => client.chat.completions.create({ model: 'tiny', messages: hello, max_completion_tokens: 12, ...more });
const askA = (client, more) => client.messages.create({ model: 'tiny', messages: hello, max_tokens: 11, ...more });

const parts = {
  async engine() {
    const oa = openai();
    const an = anthropic();
    await check('chat', async () => {
      const { data, response, request_id } = await ask(oa).withResponse();
      assert(data.choices[0].message.content);
      assert.match(request_id, /^req_/);
      assert.match(response.headers.get('openai-processing-ms'), /^\d+$/);
      used(data.usage.prompt_tokens, data.usage.completion_tokens);
    });
    await check('chat stream, usage asked for', async () => {
      let text = '', usage;
      for await (const c of await ask(oa, { stream: true, stream_options: { include_usage: true } })) {
        text += c.choices[0]?.delta?.content ?? '';
        usage = c.usage ?? usage;
      }
      assert(text);
      used(usage.prompt_tokens, usage.completion_tokens);
    });
    await check("chat, the stream's helper", async () => {
      const stream = oa.chat.completions.stream({ model: 'tiny', messages: hello, max_completion_tokens: 12, stream_options: { include_usage: true } });
      let chunks = 0;
      stream.on('chunk', () => chunks++);
      const usage = await stream.totalUsage();
      assert((await stream.finalContent()).length > 0 && chunks > 1);
      used(usage.prompt_tokens, usage.completion_tokens);
    });
    await check('completions', async () => {
      const r = await oa.completions.create({ model: 'tiny', prompt: 'The bill', max_tokens: 9 });
      assert(r.choices[0].text);
      used(r.usage.prompt_tokens, r.usage.completion_tokens);
    });
    await check('responses', async () => {
      const r = await oa.responses.create({ model: 'tiny', input: 'What is served?', max_output_tokens: 16 });
      assert(r.output_text);
      used(r.usage.input_tokens, r.usage.output_tokens);
    });
    await check('responses, events', async () => {
      let done;
      for await (const e of await oa.responses.create({ model: 'tiny', input: 'Who pays?', max_output_tokens: 16, stream: true })) {
        if (e.type === 'response.completed') done = e.response;
      }
      used(done.usage.input_tokens, done.usage.output_tokens);
    });
    await check('messages', async () => {
      const r = await askA(an);
      assert(r.content[0].text);
      assert.match(r._request_id, /^req_/);
      used(r.usage.input_tokens + (r.usage.cache_read_input_tokens ?? 0), r.usage.output_tokens);
    });
    await check("messages, the stream's helper", async () => {
      const stream = an.messages.stream({ model: 'tiny', messages: hello, max_tokens: 11 });
      let text = '';
      stream.on('text', (t) => { text += t; });
      const r = await stream.finalMessage();
      assert.equal(r.content[0].text, text);
      used(r.usage.input_tokens + (r.usage.cache_read_input_tokens ?? 0), r.usage.output_tokens);
    });
    await check('count tokens, models', async () => {
      assert((await an.messages.countTokens({ model: 'tiny', messages: hello })).input_tokens > 0);
      const models = [];
      for await (const m of oa.models.list()) models.push(m.id);
      assert.deepEqual(models, ['tiny']);
    });
    await check('wrong key', () => refused(ask(openai({ apiKey: 'sk-wrong' })), OpenAI.AuthenticationError, 401, 1, 'invalid_api_key'));
    await check('wrong key, anthropic', async () => {
      const e = await refused(askA(anthropic({ apiKey: 'sk-wrong' })), Anthropic.AuthenticationError, 401, 1);
      assert.equal(e.error.error.type, 'authentication_error');
    });
    await check('unknown path', () => refused(oa.get('/nope'), OpenAI.NotFoundError, 404, 1));
    await check('too much for the engine', async () => {
      const e = await refused(ask(oa, { messages: [{ role: 'user', content: 'the bill is the truth '.repeat(3000) }] }), OpenAI.BadRequestError, 400, 1, 'context_length_exceeded');
      assert.equal(e.param, 'messages');
    });
    await check('what the engine answers 500 to is not tried again', async () => {
      const e = await ask(oa, { messages: [{ content: 'without a role' }] }).then(() => assert.fail('no error'), (e) => e);
      assert(e instanceof OpenAI.APIError && e.status >= 400, e.stack);
      assert.equal(attempts, 1, 'attempts');
    });
  },

  async embeddings() {
    await check('embeddings', async () => {
      const r = await openai().embeddings.create({ model: 'tiny', input: ['the bill', 'the engine and the token'] });
      assert(r.data.length === 2 && r.data[0].embedding.length > 0 && typeof r.data[0].embedding[0] === 'number');
      used(r.usage.prompt_tokens, 0);
    });
  },

  // A slow engine, which calls a tool when it must.
  async slow() {
    const tools = [{ type: 'function', function: { name: 'price', parameters: { type: 'object', properties: { text: { type: 'string' } } } } }];
    await check('tools', async () => {
      const r = await ask(openai(), { tools, tool_choice: 'required', max_completion_tokens: 5 });
      const call = r.choices[0].message.tool_calls[0];
      assert.equal(call.function.name, 'price');
      assert(JSON.parse(call.function.arguments).text);
      used(r.usage.prompt_tokens, r.usage.completion_tokens);
    });
    await check('tools, stream', async () => {
      const stream = openai().chat.completions.stream({ model: 'tiny', messages: hello, tools, tool_choice: 'required', max_completion_tokens: 5, stream_options: { include_usage: true } });
      const r = await stream.finalChatCompletion();
      assert.equal(r.choices[0].finish_reason, 'tool_calls');
      assert(JSON.parse(r.choices[0].message.tool_calls[0].function.arguments).text);
      const usage = await stream.totalUsage();
      used(usage.prompt_tokens, usage.completion_tokens);
    });
    await check('leave a stream', async () => {
      let chunks = 0;
      for await (const c of await ask(openai(), { stream: true, max_completion_tokens: 1000 })) {
        if (c.choices[0]?.delta?.content && ++chunks === 3) break; // the SDK closes the connection
      }
      assert.equal(chunks, 3);
    });
    await check('abort a stream, anthropic', async () => {
      const stream = anthropic().messages.stream({ model: 'tiny', messages: hello, max_tokens: 1000 });
      stream.on('text', () => stream.abort());
      await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
    });
    await check('abort before the first byte', async () => {
      const leave = new AbortController();
      const answer = openai().chat.completions.create({ model: 'tiny', messages: hello, max_completion_tokens: 1000 }, { signal: leave.signal });
      setTimeout(() => leave.abort(), 500);
      await assert.rejects(answer, OpenAI.APIUserAbortError);
      assert.equal(attempts, 1);
    });
  },

  async dark() {
    await check('503', () => refused(ask(openai()), OpenAI.InternalServerError, 503, 1, 'billing_unobservable'));
    await check('503, anthropic', () => refused(askA(anthropic()), Anthropic.InternalServerError, 503, 1));
  },

  async spent() {
    await check('402', () => refused(ask(openai()), OpenAI.APIError, 402, 1, 'insufficient_quota'));
    await check('402, anthropic', () => refused(askA(anthropic()), Anthropic.APIError, 402, 1));
  },

  // An engine that starts: Retry-After is honoured, and the request gets through.
  async starting() {
    await check('try again', async () => {
      const letEngineStart = async (...args) => { // once the first attempt was refused
        const response = await counting(...args);
        writeFileSync(process.env.ENGINE_MAY_START, '');
        return response;
      };
      const r = await ask(openai({ fetch: letEngineStart }), { max_completion_tokens: 5 });
      assert(attempts > 1, `${attempts} attempts`);
      used(r.usage.prompt_tokens, r.usage.completion_tokens);
    });
  },
};

await parts[process.argv[2]]();
