// Asks one thing by a library, as its documentation does, and prints the answer or the error.
// usage: node ask.mjs openai|openai-responses|anthropic|ai|ai-compatible     with BASE, KEY and MODEL in the environment
const { BASE, KEY, MODEL } = process.env
const prompt = 'say hi,' + ' please'.repeat(150)
const messages = [{ role: 'user', content: prompt }]
const say = text => process.stdout.write(text ?? '')

async function aiText(model) {
  const { streamText } = await import('ai')
  for await (const part of streamText({ model, messages, onError() {} }).fullStream) {
    if (part.type === 'text-delta') say(part.text)
    if (part.type === 'error') throw part.error
  }
}

const ask = {
  async openai() {
    const { default: OpenAI } = await import('openai')
    const client = new OpenAI({ baseURL: BASE + '/v1', apiKey: KEY })
    const stream = await client.chat.completions.create({ model: MODEL, messages, stream: true, stream_options: { include_usage: true } })
    for await (const chunk of stream) say(chunk.choices[0]?.delta.content)
  },
  async 'openai-responses'() {
    const { default: OpenAI } = await import('openai')
    const client = new OpenAI({ baseURL: BASE + '/v1', apiKey: KEY })
    const stream = client.responses.stream({ model: MODEL, input: prompt })
    stream.on('response.output_text.delta', event => say(event.delta))
    const response = await stream.finalResponse()
    if (response.error) throw new Error(response.error.message)
  },
  async anthropic() {
    const { default: Anthropic } = await import('@anthropic-ai/sdk')
    const client = new Anthropic({ baseURL: BASE, authToken: KEY, apiKey: null })
    const stream = client.messages.stream({ model: MODEL, max_tokens: 4096, messages })
    stream.on('text', say)
    await stream.finalMessage()
  },
  async ai() {
    const { createOpenAI } = await import('@ai-sdk/openai')
    await aiText(createOpenAI({ baseURL: BASE + '/v1', apiKey: KEY })(MODEL))
  },
  async 'ai-compatible'() {
    const { createOpenAICompatible } = await import('@ai-sdk/openai-compatible')
    await aiText(createOpenAICompatible({ name: 'spotinference', baseURL: BASE + '/v1', apiKey: KEY, includeUsage: true })(MODEL))
  },
}

try {
  await ask[process.argv[2]]()
  say('\n')
} catch (error) {
  say(`\n${error?.name}: ${error?.message ?? JSON.stringify(error)}\n`)
  process.exitCode = 1
}
