// What the official TypeScript SDK sees of a gateway: node sdk.mjs <url> <key> <bearer|x-api-key>
// The upstream behaves as the words in capitals of a prompt say.
import assert from 'node:assert/strict';
import Anthropic from '@anthropic-ai/sdk';

const [url, key, where] = process.argv.slice(2);
const open = (key, options = {}) =>
  new Anthropic({
    baseURL: url,
    maxRetries: 0,
    ...(where === 'bearer' ? { apiKey: key } : { apiKey: null, authToken: null, defaultHeaders: { 'X-Api-Key': key, Authorization: null } }),
    ...options,
  });
const client = open(key);
const model = 'claude-sonnet-5-5';
const ask = (text, more = {}) => ({ model, max_tokens: 4096, messages: [{ role: 'user', content: text }], ...more });
const next = (params, answer, content) => ({
  ...params,
  messages: [...params.messages, { role: 'assistant', content: answer.content }, { role: 'user', content }],
});
const failure = async (work, status, type) => {
  const error = await work().then(() => assert.fail(`no error, want ${type}`), (error) => error);
  assert.ok(error instanceof Anthropic.APIError, `${type}: ${error}`);
  assert.equal(error.status, status);
  assert.equal(error.error?.error?.type, type);
  assert.match(error.requestID ?? '', /^req_0/);
};

const tests = {
  async answers() {
    const whole = await client.messages.create(ask('héllo, wörld 🌧'));
    const events = [];
    const streamed = await client.messages
      .stream(ask('héllo, wörld 🌧'))
      .on('streamEvent', (event) => events.push(event.type))
      .finalMessage();
    assert.deepEqual(streamed.content, whole.content);
    assert.equal(whole.model, model);
    assert.equal(whole.stop_reason, 'end_turn');
    assert.equal(streamed.usage.input_tokens, whole.usage.input_tokens);
    assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
    assert.equal(events.at(0), 'message_start');
    assert.equal(events.at(-1), 'message_stop');
  },
  async tools() {
    const params = ask('USE_TOOL, please', {
      tools: [{ name: 'get_weather', input_schema: { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] } }],
    });
    for (const answer of [await client.messages.create(params), await client.messages.stream(params).finalMessage()]) {
      const call = answer.content.at(-1);
      assert.equal(answer.stop_reason, 'tool_use');
      assert.equal(call.name, 'get_weather');
      const after = await client.messages.create(next(params, answer, [{ type: 'tool_result', tool_use_id: call.id, content: '17° 🌦' }]));
      assert.equal(after.stop_reason, 'end_turn');
    }
  },
  async thinking() {
    const params = ask('think', { thinking: { type: 'adaptive' } });
    for (const answer of [await client.messages.create(params), await client.messages.stream(params).finalMessage()]) {
      assert.deepEqual(answer.content.map((block) => block.type), ['thinking', 'text']);
      assert.ok(answer.content[0].signature);
      await client.messages.stream(next(params, answer, 'go on')).finalMessage();
    }
  },
  async counts() {
    assert.ok((await client.messages.countTokens({ model, messages: [{ role: 'user', content: 'how many?' }] })).input_tokens > 0);
  },
  async models() {
    const ids = [];
    for await (const entry of client.models.list({ limit: 5 })) ids.push(entry.id);
    assert.ok(ids.length > 10 && ids.includes(model), ids.join());
    assert.equal((await client.models.retrieve(model)).id, model);
    await failure(() => client.models.retrieve('gpt-5'), 404, 'not_found_error');
  },
  async abort() {
    const stream = client.messages.stream(ask('ENDLESS'));
    let events = 0;
    stream.on('streamEvent', () => ++events === 10 && stream.abort());
    await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  },
  async errors() {
    const say = (text) => () => client.messages.create(ask(text));
    const stream = (text) => () => client.messages.stream(ask(text)).finalMessage();
    await failure(() => open('sk-nobody').messages.create(ask('hi')), 401, 'authentication_error');
    await failure(say('STATUS_400'), 400, 'invalid_request_error');
    await failure(stream('STATUS_400'), 400, 'invalid_request_error');
    await failure(say('STATUS_404'), 404, 'not_found_error');
    await failure(say('STATUS_500'), 502, 'api_error');
    await failure(stream('STATUS_504'), 504, 'timeout_error');
    await failure(stream('CUT'), undefined, 'api_error');
    await failure(stream('OVERLOADED'), undefined, 'overloaded_error');
  },
};

for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`ok ${name}`);
}
