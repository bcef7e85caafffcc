"""The SQL for the row of `api_budget` that holds an account's budget.

This module has the row's arithmetic. One statement does it under the row's lock. Connections and
waiting are in `budget`, the shares of lanes in `current_rms.pacing`.
"""

from rms_pipeline.current_rms.pacing import SHARES, Lane

# Seconds.
LONGEST_PAUSE = 900.0

# The lanes that the row counts separately. Calls for parts are counted with those of walks. They
# only differ in when they may be sent: when all calls together leave room.
LANES: tuple[Lane, ...] = tuple(lane for lane in SHARES if lane is not Lane.PARTS)
# Calls are counted by the half second. A window ends with the elapsed part of the present half
# second. The window of the limit is 61 s: one second more than the API's minute, because some calls
# travel slower than later ones. Shares are our own rule, so their window is exactly a minute.
_PER_SECOND = 2
BUCKETS = 61 * _PER_SECOND + 1
_BEYOND = _PER_SECOND
_SHOWN = 60 * _PER_SECOND

# For this long, what was learned from refusals is believed. The time doubles with each failed
# attempt at more. Then this much more is tried each hour. After two weeks without a refusal it is
# forgotten.
_HELD = "interval '6 h' * 2 ^ least(tries, 5)"
_MORE_AN_HOUR, _FORGOTTEN = 0.25, "interval '14 days'"
# A pause that ended longer ago has nothing to do with the present refusal.
_CONSECUTIVE = "interval '30 min'"
# The calls of the last 10 s show whether we were the ones who asked too often.
_LATELY = 10

# `level` is the used part of the setting: what refusals of a moment ago allow (`temporary`), and at
# most what was learned to be the account's limit (`ceiling`).
#
# `state` is the row as of now. If the clock was set back, all stored times move back with it, so
# that a pause lasts as long as intended and no call is forgotten early. `sent` has the lanes'
# counts, the oldest half second first. Counts that have left the window make room for new ones.
_STATE = f"""
WITH stored AS MATERIALIZED (
    SELECT * FROM api_budget WHERE account = %(account)s {{lock}}
), timed AS MATERIALIZED (
    -- Read when the row is locked, not before the wait for it.
    SELECT *, clock_timestamp() AS now FROM stored
), state AS MATERIALIZED (
    SELECT account, now, tick, requests_per_minute, allowance,
        least(paused_until - back, now + {LONGEST_PAUSE} * interval '1 s') AS paused_until,
        least(throttled_at - back, now) AS throttled_at,
        learned, tries,
        CASE WHEN learned IS NOT NULL THEN least(learned_at - back, now) END AS learned_at,
        temporary, ceiling, least(temporary, ceiling) AS level,
        (SELECT array_agg(slot - back ORDER BY lane)
            FROM unnest(next_slots) WITH ORDINALITY AS slots(slot, lane)) AS slots,
        (sent || array_fill(0, ARRAY[{len(LANES)} * gone]))[{len(LANES)} * gone + 1:] AS sent
    FROM timed
    CROSS JOIN LATERAL (
        SELECT greatest(seen_at - now, interval '0') AS back,
            floor(extract(epoch FROM now) * {_PER_SECOND})::bigint AS tick,
            floor(extract(epoch FROM seen_at) * {_PER_SECOND})::bigint AS seen_tick
    ) AS clock
    CROSS JOIN LATERAL (
        SELECT least(
            1, allowance + 0.1 * greatest(extract(epoch FROM now - throttled_at + back), 0) / 60
        )::float8 AS temporary,
        coalesce(least(1, learned / nullif(requests_per_minute, 0) * (
            1 + {_MORE_AN_HOUR} / 3600 * greatest(
                0, extract(epoch FROM now - least(learned_at - back, now) - {_HELD})
            )
        )), 1)::float8 AS ceiling
    ) AS levels
    CROSS JOIN LATERAL (
        SELECT least(greatest(tick - seen_tick, 0), {BUCKETS})::integer AS gone
    ) AS shift
)"""

# The answer is the number of seconds to wait. 0 means that the call is granted and counted. A call
# takes a slot of its own lane and of the lanes below, so that their sum is limited too. Without a
# limit `paces` and `room` are null, and comparisons with null delay nobody. If a window is full, a
# call waits until the oldest call in it leaves.
#
# A call may be up to 50 ms late for its slot without moving the next slot. Otherwise the way to the
# database would lower the rate. No slot is further away than the time that a lane may owe to the
# lanes above it (7 s).
ASK = f"""{_STATE.format(lock="FOR UPDATE")}, paced AS MATERIALIZED (
    SELECT state.*, steps,
        (SELECT array_agg(least(slot, now + step + interval '7 s') ORDER BY lane)
            FROM unnest(slots, steps) WITH ORDINALITY AS lanes(slot, step, lane)) AS due
    FROM state CROSS JOIN LATERAL (
        SELECT array_agg(pace / level * interval '1 s' ORDER BY lane) AS steps
        FROM unnest(%(paces)s::float8[]) WITH ORDINALITY AS paces(pace, lane)
    ) AS stepped
), answer AS MATERIALIZED (
    SELECT *, greatest(
            interval '0',
            paused_until - now,
            CASE WHEN %(room)s::float8 IS NOT NULL THEN due[%(lane)s] - now END,
            (SELECT max(full_until) - now FROM (
                SELECT to_timestamp((tick + min(bucket) - beyond) / {_PER_SECOND}.0) AS full_until
                FROM (
                    SELECT calls, (n + 2) / {len(LANES)} AS bucket
                    FROM unnest(sent) WITH ORDINALITY AS counts(calls, n) WHERE calls > 0
                ) AS buckets
                JOIN (VALUES
                    (nullif(%(requests_per_minute)s, 0), 0), (%(room)s, {_BEYOND})
                ) AS windows(most, beyond) ON bucket > beyond
                GROUP BY most, beyond HAVING sum(calls) >= most
            ) AS full_windows)
        ) AS wait
    FROM paced
)
UPDATE api_budget AS budget SET
    requests_per_minute = %(requests_per_minute)s,
    seen_at = now,
    paused_until = answer.paused_until,
    throttled_at = answer.throttled_at,
    learned_at = answer.learned_at,
    sent = CASE WHEN wait > interval '0' THEN answer.sent ELSE answer.sent[:%(counter)s - 1]
        || (answer.sent[%(counter)s] + 1) || answer.sent[%(counter)s + 1:] END,
    next_slots = CASE WHEN wait > interval '0' THEN due ELSE (
        SELECT array_agg(
            CASE WHEN lane < %(lane)s THEN slot
                WHEN slot > now - interval '50 ms' THEN slot + step ELSE now + step END
            ORDER BY lane
        ) FROM unnest(due, steps) WITH ORDINALITY AS lanes(slot, step, lane)
    ) END
FROM answer WHERE budget.account = answer.account
RETURNING extract(epoch FROM wait)::float8, answer.paused_until > answer.throttled_at"""

# Other programs share the limit, and we know nothing of them. What they leave is found by sending
# less, and then a tenth more each minute. Calls that are refused together count as one refusal.
#
# Some APIs count refused calls too, or refuse all calls for a while after each refused one. Whoever
# asks such an API every half minute is never let in again. So a pause is twice as long as the last
# one if no call was answered in between. A pause that ended half an hour ago no longer counts.
#
# A refusal while we sent at half our pace or more shows the account's own limit. It is learned at
# most once a minute, because others may have used up the limit. A limit learned while the rate was
# still rising is more exact. A refusal above the learned limit does not change it.
PAUSE = f"""{_STATE.format(lock="FOR UPDATE")}, seen AS MATERIALIZED (
    SELECT *, now >= throttled_at + interval '5 s' AS cut, level * requests_per_minute AS pace,
        CASE WHEN learned_at > now - {_FORGOTTEN} THEN learned END AS known,
        greatest(%(seconds)s, CASE WHEN now BETWEEN paused_until AND paused_until + {_CONSECUTIVE}
            THEN least(2 * extract(epoch FROM paused_until - throttled_at), {LONGEST_PAUSE}) END
        ) * interval '1 s' AS pause,
        (SELECT sum(calls) FROM unnest(sent) WITH ORDINALITY AS counts(calls, n)
            WHERE n > {len(LANES) * (BUCKETS - _LATELY * _PER_SECOND)}) AS lately
    FROM state
), answer AS MATERIALIZED (
    SELECT *, cut AND requests_per_minute > 0
        AND lately >= greatest(5, 0.5 * pace * {_LATELY} / 60)
        AND (learned_at IS NULL OR now >= learned_at + interval '1 min') AS learns,
        coalesce(pace > 1.02 * known, false) AS tried
    FROM seen
)
UPDATE api_budget AS budget SET
    requests_per_minute = %(requests_per_minute)s,
    seen_at = now,
    paused_until = greatest(answer.paused_until, now + pause),
    throttled_at = CASE WHEN cut THEN now ELSE answer.throttled_at END,
    allowance = CASE WHEN cut THEN greatest(0.7 * level, 0.1) ELSE answer.allowance END,
    learned = CASE WHEN NOT learns THEN answer.learned WHEN tried THEN known
        ELSE greatest(
            pace * CASE WHEN temporary < ceiling - 0.01 THEN 0.85 ELSE 0.7 END,
            0.1 * answer.requests_per_minute, 1
        ) END,
    learned_at = CASE WHEN learns THEN now ELSE answer.learned_at END,
    tries = CASE WHEN NOT learns THEN answer.tries WHEN tried THEN answer.tries + 1
        WHEN known IS NULL THEN 0 ELSE answer.tries END,
    sent = answer.sent,
    next_slots = answer.slots
FROM answer WHERE budget.account = answer.account
RETURNING extract(epoch FROM budget.paused_until - now)::float8"""

# A call was answered. A pause that is not over was asked for by another call, so it stays.
ANSWERED = """
UPDATE api_budget SET paused_until = CASE WHEN paused_until <= clock_timestamp()
    THEN least(paused_until, throttled_at) ELSE paused_until END
WHERE account = %(account)s RETURNING 0::float8"""

OPEN = f"""
INSERT INTO api_budget (account, requests_per_minute, sent, next_slots)
VALUES (%(account)s, %(requests_per_minute)s, array_fill(0, ARRAY[{BUCKETS * len(LANES)}]),
    array_fill(clock_timestamp(), ARRAY[{len(LANES)}]))
ON CONFLICT (account) DO NOTHING"""

READ = f"""{_STATE.format(lock="")}
SELECT requests_per_minute, round(requests_per_minute * level)::integer,
    CASE WHEN paused_until > now THEN paused_until END,
    CASE WHEN ceiling < 1 THEN learned_at END, learned_at + {_HELD},
    (SELECT array_agg(calls ORDER BY lane) FROM (
        SELECT (n - 1) %% {len(LANES)} AS lane, sum(calls)::bigint AS calls
        FROM unnest(sent) WITH ORDINALITY AS buckets(calls, n)
        WHERE n > {len(LANES) * (BUCKETS - _SHOWN)} GROUP BY 1
    ) AS lanes)
FROM state"""
