// An application in JavaScript beside PostgreSQL: pg for its query, node-redis for Redis.
//
// Reads lines of JSON {"case", "way", "calls"}, makes the calls one after the other, and answers each line
// with the microseconds that every call took. Every call looks at what it got: what did nothing must not look
// fast.

import { strict as assert } from 'node:assert';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';

// The packages stand elsewhere: a directory of node_modules that scripts/fetch-node made.
const [modules, host, name, socket, script] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const pg = require('pg');
const { createClient } = require('redis');

const database = new pg.Client({ host, database: name, user: 'postgres' });
await database.connect();
const client = createClient({ socket: { path: socket } });
await client.connect();

const ACCOUNT = 7;
const [KEY, COUNTER] = ['bench:value', 'bench:counter'];
const [LIMIT, LIMIT_KEY] = ['bench', 'bench:limit'];
const [STREAM, GROUP] = ['bench:node', 'workers'];
const VALUE = 'x'.repeat(150);
const NAME = 'SELECT name FROM accounts WHERE id = $1';
const ORDER = 'INSERT INTO orders (account) VALUES ($1) RETURNING id';
const DONE = 'INSERT INTO done (job) VALUES ($1) RETURNING job';
const text = readFileSync(script, 'utf8');
const sha = createHash('sha1').update(text).digest('hex');
await client.scriptLoad(text);

// A name makes it a prepared statement.
const statements = new Map();
function prepared(sql) {
  if (!statements.has(sql)) statements.set(sql, { name: `statement ${statements.size}`, text: sql });
  return statements.get(sql);
}

async function row(sql, ...values) {
  const { rows } = await database.query({ ...prepared(sql), values });
  assert.equal(rows.length, 1);
  return rows[0];
}

// The application's own query, and in the same statement something else.
async function beside(expression, ...values) {
  const account = `$${values.length + 1}`;
  const sql = `SELECT name, ${expression} AS other FROM accounts WHERE id = ${account}`;
  return (await row(sql, ...values, ACCOUNT)).other;
}

let sessionId = '';
const own = () => row(NAME, ACCOUNT);
const order = async () => (await row(ORDER, ACCOUNT)).id;
const send = (id) => client.xAdd(STREAM, '*', { payload: JSON.stringify({ order: id }) });

async function session() {
  assert.equal(JSON.parse(await client.get(`sess:${sessionId}`)).user, 'ada');
}

async function touchedSession() {
  await session();
  assert.equal(await client.expire(`sess:${sessionId}`, 86400), 1);
}

async function limit() {
  // A million a second: one microsecond a request.
  const told = await client.evalSha(sha, { keys: [LIMIT_KEY], arguments: ['1000000', '1', '0', '1000000', '0'] });
  assert.equal(told[0], 1);
}

async function work() {
  const found = await client.xReadGroup(GROUP, 'one', { key: STREAM, id: '>' }, { COUNT: 1 });
  return found[0].messages[0].id;
}

async function acknowledge(job) {
  assert.equal(await client.xAck(STREAM, GROUP, job), 1);
}

// Each: the commands alone, and in one statement with the application's own query.
const commands = {
  get: [
    async () => assert.equal(await client.get(KEY), VALUE),
    async () => assert.equal(await beside('redis_get($1)', KEY), VALUE),
  ],
  set: [
    () => client.set(KEY, VALUE, { expiration: { type: 'EX', value: 3600 } }),
    () => beside('redis_set($1, $2, 3600)', KEY, VALUE),
  ],
  incr: [
    async () => assert.ok((await client.incr(COUNTER)) > 0),
    async () => assert.ok((await beside('redis_incr($1)', COUNTER)) > 0),
  ],
  session_get: [
    session,
    async () => assert.equal((await beside('redis_session_get($1)', sessionId)).user, 'ada'),
  ],
  session_touch: [
    touchedSession,
    async () => assert.equal((await beside('redis_session_get($1, true)', sessionId)).user, 'ada'),
  ],
  rate_limit: [
    limit,
    async () => {
      const sql = '(SELECT allowed FROM redis_rate_limit($1, 1000000, 1))';
      assert.equal(await beside(sql, LIMIT), true);
    },
  ],
};

const cases = {
  enqueue: {
    own: order,
    redis: () => send(1),
    app: async () => send(await order()),
    sql: () =>
      row(
        'WITH made AS (INSERT INTO orders (account) VALUES ($1) RETURNING id)' +
          " SELECT redis_enqueue('bench', jsonb_build_object('order', id)) FROM made",
        ACCOUNT,
      ),
  },
  dequeue: {
    own: () => row(DONE, '1-1'),
    redis: async () => acknowledge(await work()),
    app: async () => {
      const job = await work();
      await row(DONE, job);
      await acknowledge(job);
    },
    sql: async () => {
      const { acknowledged } = await row(
        "WITH job AS (SELECT id FROM redis_dequeue('bench', 1))," +
          ' kept AS (INSERT INTO done (job) SELECT id FROM job RETURNING job)' +
          " SELECT redis_ack('bench', VARIADIC array_agg(job)) AS acknowledged FROM kept",
      );
      assert.equal(Number(acknowledged), 1);
    },
  },
};
for (const [name, [command, statement]] of Object.entries(commands)) {
  const both = async () => {
    await own();
    await command();
  };
  const atOnce = () => Promise.all([own(), command()]);
  cases[name] = { own, redis: command, app: both, both: atOnce, sql: statement };
}

async function fill(way, calls) {
  if (way === 'sql') {
    const jobs = 'SELECT count(redis_enqueue(\'bench\', \'{"order":1}\')) FROM generate_series(1, $1)';
    await row(jobs, calls);
    // They are delivered behind the commit.
    const ready = "SELECT coalesce(sum(ready), 0) AS ready FROM redis_queues WHERE queue = 'bench'";
    while (Number((await row(ready)).ready) < calls) await setTimeout(5);
  } else if (way !== 'own') {
    await Promise.all(Array.from({ length: calls }, () => send(1)));
  }
}

await client.set(KEY, VALUE, { expiration: { type: 'EX', value: 3600 } });
await client.xGroupCreate(STREAM, GROUP, '0', { MKSTREAM: true });
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
say('ready');

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  if (asked.case.startsWith('session') && !sessionId) {
    sessionId = (await row('SELECT redis_session_new(\'{"user": "ada"}\') AS id')).id;
  }
  const call = cases[asked.case][asked.way];
  if (asked.case === 'dequeue') await fill(asked.way, asked.calls);
  const times = [];
  for (let count = 0; count < asked.calls; count += 1) {
    const start = process.hrtime.bigint();
    await call();
    times.push(Number(process.hrtime.bigint() - start) / 1000);
  }
  await client.xTrim(STREAM, 'MAXLEN', 0);
  say(times);
}
await client.close();
await database.end();
