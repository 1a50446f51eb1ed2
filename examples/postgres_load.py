"""Load rows into PostgreSQL, and lose every connection in the middle.

The items are chunks of 1,000 rows, as many at once as the pool has connections. After the tenth chunk the server ends
all connections, as a failover does: the chunks that were being written are tried again, and no row is there twice.

The server is a private one on a socket in a temporary folder, started from Debian's package `postgresql`. The rows are
50,000, or the number in the first argument.

Needs: flowrt, psycopg[binary,pool], and PostgreSQL. Prints:

    loaded 50,000 rows in 50 items: 50 ok
    connections lost: 4 at once, and some items took another attempt
    in the table: 50,000 rows of 100 sensors, their values sum to 156,246,875.0
    the batch was held back by: …
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg_pool import AsyncConnectionPool

import flowrt
from flowrt import RetryPolicy

CHUNK = 1_000  # rows
CONNECTIONS = 4

TABLE = "create table readings (id integer primary key, sensor text not null, value double precision not null)"
LOAD = """
insert into readings select * from unnest(%s::integer[], %s::text[], %s::double precision[])
on conflict (id) do update set sensor = excluded.sensor, value = excluded.value
"""  # may run twice for the same rows: after a commit whose answer was lost
END_CONNECTIONS = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'loader'"

Row = tuple[int, str, float]

logging.getLogger("psycopg.pool").setLevel("ERROR")  # it warns of each connection that it replaces


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Runs a private server; yields how to connect to it."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    path = os.pathsep.join([*map(str, reversed(versions)), os.environ["PATH"]])
    initdb, server = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    if initdb is None or server is None:
        raise SystemExit("PostgreSQL is not installed: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:  # a socket's path must be short
        if user is not None:
            shutil.chown(folder, user)
        data = f"{folder}/data"
        create = [initdb, "-D", data, "-U", "loader", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(create, user=user, cwd=folder, check=True, capture_output=True)
        start = [server, "-D", data, "-k", folder, "-h", "", "-F"]  # a socket in the folder, no port, no fsync
        process = subprocess.Popen(start, user=user, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            yield f"host={folder} user=loader dbname=postgres"
        finally:
            process.terminate()
            process.wait()


async def connect(conninfo: str) -> psycopg.AsyncConnection:
    """Connect as soon as the server has started."""
    while True:
        try:
            return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        except psycopg.OperationalError:
            await asyncio.sleep(0.05)


def chunks(rows: int) -> Iterator[list[Row]]:
    """The rows in chunks, made as slots become free: a million rows need no more memory."""
    source = ((number, f"sensor {number % 100}", number / 8) for number in range(rows))
    while chunk := list(itertools.islice(source, CHUNK)):
        yield chunk


async def main(conninfo: str, rows: int) -> None:
    admin = await connect(conninfo)
    await admin.execute(TABLE)
    lost = 0  # connections

    async with AsyncConnectionPool(
        f"{conninfo} application_name=loader", min_size=CONNECTIONS, max_size=CONNECTIONS, open=False
    ) as pool:
        await pool.wait()  # until all are open

        async def load(chunk: list[Row]) -> int:
            async with pool.connection() as connection:  # a transaction: committed at the end, rolled back on errors
                nonlocal lost
                if chunk[0][0] == 10 * CHUNK and not lost:
                    lost = (await admin.execute(END_CONNECTIONS)).rowcount
                await connection.execute(LOAD, [list(column) for column in zip(*chunk, strict=True)])
            return len(chunk)

        results = await flowrt.map(
            load,
            chunks(rows),
            max_concurrency=CONNECTIONS,
            item_timeout=60,
            retry=RetryPolicy(5, on=psycopg.OperationalError),  # a violated constraint is no such error
        )
    results.raise_for_failures()

    print(f"loaded {sum(results.outputs):,} rows in {len(results)} items: {len(results.succeeded)} ok")
    retried = sum(result.attempts > 1 for result in results)
    print(f"connections lost: {lost} at once, and {'some' if retried else 'no'} items took another attempt")
    cursor = await admin.execute("select count(*), count(distinct sensor), sum(value) from readings")
    print("in the table: {:,} rows of {} sensors, their values sum to {:,}".format(*(await cursor.fetchone() or ())))
    bound_by = results.report.bound_by
    print("the batch was held back by:", max(bound_by, key=lambda cause: bound_by[cause]))
    await admin.close()


if __name__ == "__main__":
    with postgres() as conninfo:
        asyncio.run(main(conninfo, int(sys.argv[1]) if len(sys.argv) > 1 else 50_000))
