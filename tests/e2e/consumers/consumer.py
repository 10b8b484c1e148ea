"""What an application does with events, in redis-py: a subscriber, a worker in a consumer group, and a
reader of stored keys. Prints one JSON text a line; every wait has an end."""

import json
import sys
import time

import redis

WAIT_SECONDS = 20

socket, messages, jobs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = redis.Redis(unix_socket_path=socket, decode_responses=True)


def say(kind, value):
    print(json.dumps([kind, value]), flush=True)


channel = client.pubsub(ignore_subscribe_messages=True)
channel.psubscribe("orders:*")
client.xgroup_create("orders", "billing", id="0", mkstream=True)
client.xgroup_create("mailer", "senders", id="0", mkstream=True)
# The server answers in order: once this is answered, the subscription stands.
channel.ping()
say("ready", None)


def next_message():
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        # None also for an answer to the subscription.
        message = channel.get_message(timeout=1)
        if message is not None and message["type"] == "pmessage":
            return [message["channel"], json.loads(message["data"])]
    return None


for _ in range(messages):
    say("message", next_message())

for stream, group, field, count in [
    ("orders", "billing", "event", messages),
    ("mailer", "senders", "payload", jobs),
]:
    seen = 0
    while seen < count:
        # A worker takes a few, does its work, and acknowledges.
        found = client.xreadgroup(group, "one", {stream: ">"}, count=3, block=WAIT_SECONDS * 1000)
        if not found:
            say(stream, None)
            break
        for entry_id, fields in found[0][1]:
            say(stream, json.loads(fields[field]))
            client.xack(stream, group, entry_id)
            seen += 1
    say("pending", client.xpending(stream, group)["pending"])

say("stored", json.loads(client.get("order:1")))
say("hash", client.hgetall("order:2:hash"))
say("deleted", client.exists("order:3"))
