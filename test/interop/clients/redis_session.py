"""Redis as caches and queues use it: pipelines, large values, a blocked pop and a quiet subscription."""

import json
import os
import sys
import threading
import time

import redis

QUIET_SECONDS = 3


def main(friend: int, stranger: int) -> dict:
    db = redis.Redis(port=friend, socket_timeout=100)
    result = {"ping": db.ping()}
    with db.pipeline(transaction=False) as pipe:
        for n in range(10_000):
            pipe.set(f"key-{n}", n)
        for n in range(10_000):
            pipe.get(f"key-{n}")
        answers = pipe.execute()
    result["pipelined"] = answers[10_000:] == [str(n).encode() for n in range(10_000)]
    large = os.urandom(1 << 20) * 64
    db.set("large", large)
    result["large"] = db.get("large") == large

    subscription = db.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("news")
    subscription.get_message(timeout=60)

    def later() -> None:
        time.sleep(QUIET_SECONDS)
        other = redis.Redis(port=friend)
        other.rpush("queue", "job")
        other.publish("news", "after silence")

    threading.Thread(target=later).start()
    result["popped"] = db.blpop("queue", timeout=60)[1].decode()
    result["news"] = (subscription.get_message(timeout=60) or {}).get("data", b"").decode()
    try:
        result["stranger"] = str(redis.Redis(port=stranger, retry=None, socket_timeout=60).ping())
    except (redis.ConnectionError, redis.TimeoutError) as error:
        result["stranger"] = type(error).__name__
    return result


print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
