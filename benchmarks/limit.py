"""How near a walk comes to what the request limit allows, by the API's latency.

    python benchmarks/limit.py [--rows 50000] [--latencies 0.2 0.7 3] [--requests-per-minute 120]

A full walk over the account, on the embedded server, with the budget that all processes share.
`allowed` is pages ÷ the walk's share of the limit; `seconds` runs from the first call to the last
page landed, calls for what changed meanwhile included. Nothing is left out for starting up: the
last answer alone costs one latency. Latencies run side by side, each on an account and a database
of its own: a walk at the limit hardly works.
"""

import argparse
import contextlib
from concurrent.futures import ThreadPoolExecutor

import ground
from pydantic import SecretStr

from rms_pipeline.collections.opportunities import OPPORTUNITIES
from rms_pipeline.current_rms.client import CurrentRmsClient
from rms_pipeline.current_rms.pacing import SHARES, Lane
from rms_pipeline.current_rms.window import Window
from rms_pipeline.mirror.budget import SharedBudget
from rms_pipeline.mirror.database import Database
from rms_pipeline.mirror.schema import migrate
from rms_pipeline.sandbox import SANDBOX_API_KEY, SANDBOX_SUBDOMAIN
from rms_pipeline.sync.landing import LandedWalk, land_window


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--latencies", type=float, nargs="+", default=[0.2, 0.7, 3.0])
    parser.add_argument("--requests-per-minute", type=int, default=120)
    options = parser.parse_args()
    share = SHARES[Lane.WALK] * options.requests_per_minute

    with contextlib.ExitStack() as stack:
        url = stack.enter_context(ground.a_server("embedded"))
        limit = options.requests_per_minute
        apis = [
            stack.enter_context(ground.api_of(options.rows, latency=s, requests_per_minute=limit))
            for s in options.latencies
        ]
        ground.headline(f"The walk at {limit} requests a minute", url, kilobytes=apis[0].kilobytes)
        databases = []
        for _ in options.latencies:
            databases.append(ground.database_at(stack.enter_context(ground.new_database(url))))
            migrate(databases[-1])

        def walk(database: Database, api: ground.Api) -> LandedWalk:
            return land(database, api, limit)

        pool = stack.enter_context(ThreadPoolExecutor(len(databases)))
        landed = list(pool.map(walk, databases, apis))
    walks = list(zip(options.latencies, landed, strict=True))
    ground.table(
        ["latency, s", "records", "pages", "API calls", "refused", "seconds", "allowed", "ratio"],
        [line(latency, walk, share) for latency, walk in walks],
    )
    ground.judge(
        [
            ground.Asked(
                f"seconds over those allowed, {latency:g} s latency",
                walk.seconds / allowed(walk, share),
                most=1.05,
            )
            for latency, walk in walks
        ]
    )


def land(database: Database, api: ground.Api, limit: int) -> LandedWalk:
    budget = SharedBudget(database, SANDBOX_SUBDOMAIN, limit)
    client = CurrentRmsClient(
        collection=OPPORTUNITIES,
        base_url=api.url,
        subdomain=SANDBOX_SUBDOMAIN,
        api_key=SecretStr(SANDBOX_API_KEY),
        budget=budget,
        now=database.clock(),
    )
    days = ground.EVERYTHING_DAYS
    window = Window.around(database.clock()(), days_back=days, days_ahead=days)
    with contextlib.closing(budget), client:
        return land_window(database, client, window, "limit")


def pages_of(landed: LandedWalk) -> int:
    return -(-landed.distinct_records // 100)


def allowed(landed: LandedWalk, share: float) -> float:
    """Seconds for its pages at `share` calls a minute."""
    return pages_of(landed) / share * 60


def line(latency: float, landed: LandedWalk, share: float) -> list[str]:
    return [
        f"{latency:g}",
        f"{landed.distinct_records:,}",
        str(pages_of(landed)),
        str(landed.api_calls),
        str(landed.throttled_calls),
        f"{landed.seconds:.1f}",
        f"{allowed(landed, share):.1f}",
        f"{landed.seconds / allowed(landed, share):.3f}",
    ]


if __name__ == "__main__":
    main()
