"""Sessions with PostgreSQL as applications hold them: pipelining, bulk both ways, a quiet LISTEN, an error, a cancel."""

import hashlib
import json
import sys
import threading
import time

import psycopg

ROWS = 1_000_000
QUIET_SECONDS = 3


def main(friend: str, stranger: str) -> dict:
    result = {}
    with psycopg.connect(friend, autocommit=True) as db:
        result["answer"] = db.execute("select 6 * 7").fetchone()[0]
        with db.pipeline(), db.cursor() as cursor:
            db.execute("create table n (v int primary key)")
            cursor.executemany("insert into n values (%s)", [(n,) for n in range(5000)])
        result["inserted"] = db.execute("select count(*), sum(v) from n").fetchone()
        try:
            db.execute("insert into n values (1)")
        except psycopg.errors.UniqueViolation:
            result["violation"] = True

        lines = "select g, repeat(md5(g::text), 3) from generate_series(1, %d) g" % ROWS
        digest, size = hashlib.sha256(), 0
        parts = []
        with db.cursor().copy(f"copy ({lines}) to stdout") as copy:
            for part in copy:
                digest.update(part)
                size += len(part)
                parts.append(bytes(part))
        result["copiedOut"] = size
        db.execute("create table bulk (g int, t text)")
        with db.cursor().copy("copy bulk from stdin") as copy:
            for start in range(0, len(parts), 500):
                copy.write(b"".join(parts[start : start + 500]))
        back = hashlib.sha256()
        with db.cursor().copy("copy (select * from bulk order by g) to stdout") as copy:
            for part in copy:
                back.update(part)
        result["same"] = back.digest() == digest.digest()

        done = threading.Event()

        def cancel() -> None:
            # Again and again: one that comes before the statement cancels nothing.
            while not done.wait(0.2):
                db.cancel_safe()

        cancelling = threading.Thread(target=cancel)
        cancelling.start()
        try:
            db.execute("select pg_sleep(30)")
        except psycopg.errors.QueryCanceled:
            result["cancelled"] = True
        done.set()
        cancelling.join()

    with psycopg.connect(friend, autocommit=True) as listener, psycopg.connect(friend, autocommit=True) as db:
        listener.execute("listen news")
        time.sleep(QUIET_SECONDS)
        db.execute("notify news, 'after silence'")
        result["notified"] = next(listener.notifies(timeout=60)).payload

    try:
        psycopg.connect(stranger, connect_timeout=60).close()
        result["stranger"] = "let in"
    except psycopg.OperationalError as error:
        result["stranger"] = str(error)
    return result


print(json.dumps(main(sys.argv[1], sys.argv[2])))
