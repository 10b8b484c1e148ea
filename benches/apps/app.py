"""An application in Python beside PostgreSQL: psycopg for its query, redis-py for Redis.

Reads lines of JSON {"case", "way", "calls"}, makes the calls one after the other, and answers each line with
the microseconds that every call took. Every call looks at what it got: what did nothing must not look fast."""

import json
import sys
import time

import psycopg
import redis

conninfo, socket, script = sys.argv[1:4]
database = psycopg.connect(conninfo, autocommit=True)
cursor = database.cursor()
client = redis.Redis(unix_socket_path=socket, decode_responses=True)
with open(script) as file:
    limit_script = client.register_script(file.read())

ACCOUNT = 7
KEY, COUNTER, LIMIT, LIMIT_KEY = "bench:value", "bench:counter", "bench", "bench:limit"
STREAM, GROUP = "bench:python", "workers"
VALUE = "x" * 150
NAME = "SELECT name FROM accounts WHERE id = %s"
ORDER = "INSERT INTO orders (account) VALUES (%s) RETURNING id"
DONE = "INSERT INTO done (job) VALUES (%s) RETURNING job"


def row(sql, *arguments):
    found = cursor.execute(sql, arguments, prepare=True).fetchone()
    assert found is not None
    return found


def beside(expression, *arguments):
    """The application's own query, and in the same statement something else."""
    found = row(f"SELECT name, {expression} FROM accounts WHERE id = %s", *arguments, ACCOUNT)
    return found[1]


def check(found, expected):
    assert found == expected, (found, expected)


def session():
    found = json.loads(client.get("sess:" + session_id))
    check(found["user"], "ada")


def touched_session():
    session()
    assert client.expire("sess:" + session_id, 86400)


def limit():
    # A million a second: one microsecond a request.
    check(limit_script(keys=[LIMIT_KEY], args=[1000000, 1, 0, 1000000, 0])[0], 1)


def work():
    found = client.xreadgroup(GROUP, "one", {STREAM: ">"}, count=1)
    return found[0][1][0][0]


def worked():
    check(client.xack(STREAM, GROUP, work()), 1)


def work_in_application():
    job = work()
    row(DONE, job)
    check(client.xack(STREAM, GROUP, job), 1)


def fill_stream(calls):
    pipeline = client.pipeline()
    for _ in range(calls):
        pipeline.xadd(STREAM, {"payload": '{"order":1}'})
    pipeline.execute()


def fill_queue(calls):
    row("SELECT count(redis_enqueue('bench', '{\"order\":1}')) FROM generate_series(1, %s)", calls)
    # They are delivered behind the commit.
    while row("SELECT coalesce(sum(ready), 0) FROM redis_queues WHERE queue = 'bench'")[0] < calls:
        time.sleep(0.005)


def then(query, command):
    def both():
        query()
        command()

    return both


def name():
    row(NAME, ACCOUNT)


def order():
    return row(ORDER, ACCOUNT)[0]


def send(number):
    client.xadd(STREAM, {"payload": json.dumps({"order": number})})


# Each case: the application's own query alone, the commands alone, both from the application, and both in one
# statement.
COMMANDS = {
    "get": (lambda: check(client.get(KEY), VALUE), lambda: check(beside("redis_get(%s)", KEY), VALUE)),
    "set": (
        lambda: client.set(KEY, VALUE, ex=3600),
        lambda: beside("redis_set(%s, %s, 3600)", KEY, VALUE),
    ),
    "incr": (
        lambda: check(client.incr(COUNTER) > 0, True),
        lambda: check(beside("redis_incr(%s)", COUNTER) > 0, True),
    ),
    "session_get": (
        session,
        lambda: check(beside("redis_session_get(%s)", session_id)["user"], "ada"),
    ),
    "session_touch": (
        touched_session,
        lambda: check(beside("redis_session_get(%s, true)", session_id)["user"], "ada"),
    ),
    "rate_limit": (
        limit,
        lambda: check(beside("(SELECT allowed FROM redis_rate_limit(%s, 1000000, 1))", LIMIT), True),
    ),
}
CASES = {
    case: {"own": name, "redis": command, "app": then(name, command), "sql": statement}
    for case, (command, statement) in COMMANDS.items()
}
CASES["enqueue"] = {
    "own": order,
    "redis": lambda: send(1),
    "app": lambda: send(order()),
    "sql": lambda: row(
        "WITH made AS (INSERT INTO orders (account) VALUES (%s) RETURNING id)"
        " SELECT redis_enqueue('bench', jsonb_build_object('order', id)) FROM made",
        ACCOUNT,
    ),
}
CASES["dequeue"] = {
    "own": lambda: row(DONE, "1-1"),
    "redis": worked,
    "app": work_in_application,
    "sql": lambda: check(
        row(
            "WITH job AS (SELECT id FROM redis_dequeue('bench', 1)),"
            " kept AS (INSERT INTO done (job) SELECT id FROM job RETURNING job)"
            " SELECT redis_ack('bench', VARIADIC array_agg(job)) FROM kept"
        )[0],
        1,
    ),
}
FILLS = {("dequeue", "redis"): fill_stream, ("dequeue", "app"): fill_stream, ("dequeue", "sql"): fill_queue}

session_id = ""
client.set(KEY, VALUE, ex=3600)
client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
print(json.dumps("ready"), flush=True)

for line in sys.stdin:
    asked = json.loads(line)
    if asked["case"].startswith("session") and not session_id:
        session_id = row("SELECT redis_session_new('{\"user\": \"ada\"}')")[0]
    call = CASES[asked["case"]][asked["way"]]
    FILLS.get((asked["case"], asked["way"]), lambda calls: None)(asked["calls"])
    times = []
    for _ in range(asked["calls"]):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1000)
    client.xtrim(STREAM, maxlen=0)
    print(json.dumps(times), flush=True)
