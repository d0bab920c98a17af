"""Enqueues one request by the published schema (docs/message.schema.json) and waits for its row in Postgres.

    pip install pika "psycopg[binary]"
    gristmill worker --model gpt-4o-mini &                # with the same AMQP_URL and DATABASE_URL
    python examples/enqueue_pika.py gpt-4o-mini "What is a grist mill?"
"""

import json, os, secrets, sys, time, urllib.parse, uuid

import pika, psycopg

if len(sys.argv) != 3:
    sys.exit("usage: python enqueue_pika.py MODEL PROMPT")
model, prompt = sys.argv[1:]
prefix = os.environ.get("GRISTMILL_PREFIX", "gristmill")

# A UUID of version 7: 48 bits of Unix milliseconds, then random ones. The same id twice is the same job: it runs once.
bits = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
job = uuid.UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)

body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
request = {"custom_id": "hello", "endpoint": "/v1/chat/completions", "body": body}
message = {"v": 1, "group": model, "priority": "high", "jobs": [{"id": str(job), "request": request}]}
group = urllib.parse.quote(model, safe="").replace(".", "%2E").replace("~", "%7E")

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
    database.execute("LISTEN gristmill_results")
    with pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])) as connection:
        channel = connection.channel()
        channel.confirm_delivery()  # from the confirmation on, the request cannot be lost
        persistent = pika.BasicProperties(delivery_mode=2, content_type="application/json")
        channel.basic_publish(f"{prefix}.submit", f"{group}.high.0", json.dumps(message), persistent)
    query = "SELECT status, output_text, error_message FROM gristmill.results WHERE job_id = %s"
    while not (row := database.execute(query, [job]).fetchone()):
        next(database.notifies(timeout=1, stop_after=1), None)  # a hint; the row is the truth
print(*(text for text in row if text), sep=": ")
