-- pg_cache 0.1.0
-- The SQL surface, written by hand: every function below names a symbol of the library, and a test
-- compares the two lists.
\echo Use "CREATE EXTENSION pg_cache" to load this file. \quit

-- What all backends must agree on ----------------------------------------------------------------

-- The one agreement on which Redis server and which mapping count. Readers take it under their own
-- snapshot, writers under one taken before their commit.
CREATE TABLE redis_server (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    system_identifier bigint NOT NULL,
    database oid NOT NULL,
    generation uuid NOT NULL,
    servers text NOT NULL DEFAULT '',
    timeline bigint NOT NULL DEFAULT 0,
    key_prefix text NOT NULL DEFAULT '',
    buckets integer NOT NULL DEFAULT 65536,
    shards integer NOT NULL DEFAULT 1,
    format integer NOT NULL DEFAULT 1,
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    -- Under which entries' recipes are written: who may write Redis must not be able to forge one.
    secret text NOT NULL DEFAULT pg_catalog.replace(
        pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text, '-', ''),
    -- Where writers are listed for readers: 'redis', or 'memory' of the server that registered it.
    tag_table text NOT NULL DEFAULT 'redis'
);

COMMENT ON TABLE redis_server IS
    'the Redis server and the generation that count; a row of another database is none';

-- Emptied by crash recovery, and of another start time after any restart: then lost commits and
-- transaction IDs handed out twice are possible, and the generation is used no more.
CREATE UNLOGGED TABLE redis_alive (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation uuid NOT NULL,
    started_at timestamptz NOT NULL
);

COMMENT ON TABLE redis_alive IS 'the generation that this run of the server may use';

-- `yields`: the key is deleted only if nobody's token stands beside it, who will set it.
CREATE TABLE redis_debt (
    tag bigint NOT NULL,
    xid xid8 NOT NULL,
    key text,
    yields boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tag, xid)
);

COMMENT ON TABLE redis_debt IS
    'what committed transactions could not settle with Redis: readers of it compute';

-- What committed transactions send by way of the worker. `number` orders them: a position in the
-- write-ahead log from before the commit record. Negative: the transaction of that ID wrote the row
-- before it knew its number, and a row without a message stands where it belongs; or, below all
-- of those, put aside because Redis refuses it.
CREATE TABLE redis_outbox (
    number bigint NOT NULL,
    xid xid8 NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    message bytea NOT NULL,
    PRIMARY KEY (number, xid, seq)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE redis_outbox IS 'durable events that are not delivered to Redis yet';

-- What redis_ack acknowledged: written with the transaction that did the job, before it asks Redis
-- whether the job is still there; gone when Redis has confirmed that it is done. `birth` tells jobs
-- apart that had one id after another.
CREATE TABLE redis_job_done (
    queue text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    birth text COLLATE "C" NOT NULL,
    xid xid8 NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (queue, id, birth)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

CREATE INDEX redis_job_done_at ON redis_job_done (at);

COMMENT ON TABLE redis_job_done IS 'jobs that were acknowledged not long ago';

INSERT INTO redis_server (system_identifier, database, generation)
    SELECT c.system_identifier, d.oid, pg_catalog.gen_random_uuid()
      FROM pg_catalog.pg_control_system() AS c, pg_catalog.pg_database AS d
     WHERE d.datname = pg_catalog.current_database();

-- Read-through ---------------------------------------------------------------------------------

-- Three signatures: without arguments; with typed ones; with untyped ones, as drivers send them
-- (VARIADIC "any" alone cannot take a parameter whose type nobody knows).
CREATE FUNCTION redis_cached(key text, ttl "any", query text) RETURNS json
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_cached';

CREATE FUNCTION redis_cached(key text, ttl "any", query text, VARIADIC args "any") RETURNS json
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_cached';

CREATE FUNCTION redis_cached(key text, ttl "any", query text, VARIADIC args text[]) RETURNS json
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_cached_text';

COMMENT ON FUNCTION redis_cached(text, "any", text) IS
    'the rows of a query as a JSON array, from Redis or computed and kept there';

CREATE FUNCTION redis_cached_rows(key text, ttl "any", query text) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_cached_rows';

CREATE FUNCTION redis_cached_rows(key text, ttl "any", query text, VARIADIC args "any")
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_cached_rows';

CREATE FUNCTION redis_cached_rows(key text, ttl "any", query text, VARIADIC args text[])
    RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_cached_rows_text';

COMMENT ON FUNCTION redis_cached_rows(text, "any", text) IS
    'the rows of a query as a table, from the same entry as redis_cached';

CREATE FUNCTION redis_cached_view(name text, ttl "any", query text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_cached_view';

COMMENT ON FUNCTION redis_cached_view(text, "any", text) IS
    'creates a view that reads a query through the cache';

CREATE FUNCTION redis_explain(key text, query text) RETURNS json
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_explain';

CREATE FUNCTION redis_explain(key text, query text, VARIADIC args "any") RETURNS json
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_explain';

CREATE FUNCTION redis_explain(key text, query text, VARIADIC args text[]) RETURNS json
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_explain_text';

COMMENT ON FUNCTION redis_explain(text, text) IS
    'whether and how redis_cached would keep a query, and what stands under its key';

-- Keeping it right -----------------------------------------------------------------------------

CREATE FUNCTION redis_track_row() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_track_row';

CREATE FUNCTION redis_track_truncate() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_track_truncate';

-- The condition of that trigger where there are no row groups to tell: it notes the change and is
-- never true, so that PostgreSQL queues nothing and calls no trigger function.
CREATE FUNCTION redis_track_note(rel regclass) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'redis_track_note';

COMMENT ON FUNCTION redis_track_note(regclass) IS
    'notes a change of a tracked table, and is false; the condition of redis_track''s trigger';
COMMENT ON FUNCTION redis_track_row() IS
    'notes the changes of a tracked table; attached by redis_track';
COMMENT ON FUNCTION redis_track_truncate() IS
    'notes TRUNCATE of a tracked table; attached by redis_track';

-- Whoever may write a tracked table calls it there, also where default privileges grant nothing.
GRANT EXECUTE ON FUNCTION redis_track_note(regclass) TO PUBLIC;

CREATE FUNCTION redis_track(rel regclass, "by" name[] DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_track';

COMMENT ON FUNCTION redis_track(regclass, name[]) IS
    'makes cached queries over a table exact, by triggers that note its changes';

CREATE FUNCTION redis_untrack(rel regclass) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_untrack';

COMMENT ON FUNCTION redis_untrack(regclass) IS 'removes the triggers of redis_track';

CREATE FUNCTION redis_invalidate() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_invalidate';

COMMENT ON FUNCTION redis_invalidate() IS
    'trigger: deletes the keys named by its arguments before the commit returns';

CREATE FUNCTION redis_touch(tag text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_touch';

COMMENT ON FUNCTION redis_touch(text) IS
    'makes what calls redis_depends of that tag be computed anew, at commit';

CREATE FUNCTION redis_depends(tag text) RETURNS boolean
    LANGUAGE c IMMUTABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'redis_depends';

COMMENT ON FUNCTION redis_depends(text) IS
    'true; a cached query that calls it ends with the next redis_touch of that tag';

-- The arguments of a trigger as pg_trigger keeps them: each ends with a zero byte.
CREATE FUNCTION redis_track_columns(arguments bytea) RETURNS name[]
    LANGUAGE sql STABLE
    AS $$
        SELECT pg_catalog.array_agg(
                   pg_catalog.convert_from(pg_catalog.decode(m[1], 'hex'),
                                           pg_catalog.getdatabaseencoding())::pg_catalog.name
                   ORDER BY n)
          FROM pg_catalog.regexp_matches(pg_catalog.encode($1, 'hex'),
                   '((?:0[1-9a-f]|[1-9a-f][0-9a-f])*)00', 'g') WITH ORDINALITY AS t(m, n)
    $$;

-- The view redis_tracked calls it for everybody.
GRANT EXECUTE ON FUNCTION redis_track_columns(bytea) TO PUBLIC;

-- A table with its partitions and inheritance children, which must all tell their changes. Other
-- sessions' temporary children do not count: nobody else sees their rows.
CREATE VIEW redis_tracked AS
    WITH RECURSIVE ours AS (
        SELECT t.tgrelid, t.tgname, t.tgargs, t.tgenabled = 'A' AS always,
               t.tgparentid = 0 AS own,
               t.tgfoid = 'redis_track_row()'::pg_catalog.regprocedure AS for_rows
          FROM pg_catalog.pg_trigger AS t
         WHERE t.tgfoid IN ('redis_track_row()'::pg_catalog.regprocedure,
                            'redis_track_truncate()'::pg_catalog.regprocedure)
    ), top AS (
        SELECT c.oid,
               (SELECT redis_track_columns(o.tgargs) FROM ours AS o
                 WHERE o.tgrelid = c.oid AND o.own AND o.for_rows LIMIT 1) AS columns
          FROM pg_catalog.pg_class AS c
         WHERE NOT c.relispartition
           AND EXISTS (SELECT FROM ours AS o WHERE o.tgrelid = c.oid)
    ), tree AS (
        SELECT top.oid AS top, top.oid AS member FROM top
        UNION
        SELECT tree.top, i.inhrelid
          FROM tree JOIN pg_catalog.pg_inherits AS i ON i.inhparent = tree.member
    ), member AS (
        SELECT tree.top, tree.member, c.relkind,
               (SELECT pg_catalog.count(*) FROM ours AS o
                 WHERE o.tgrelid = tree.member AND o.always) AS in_place,
               EXISTS (SELECT FROM ours AS o WHERE o.tgrelid = tree.member AND o.for_rows)
                   AS tells_rows,
               EXISTS (SELECT FROM ours AS o WHERE o.tgrelid = tree.member AND NOT o.for_rows)
                   AS tells_truncate,
               (SELECT pg_catalog.string_agg(o.tgname, ', ' ORDER BY o.tgname) FROM ours AS o
                 WHERE o.tgrelid = tree.member AND NOT o.always) AS not_always
          FROM tree JOIN pg_catalog.pg_class AS c ON c.oid = tree.member
         WHERE c.relpersistence <> 't'
    ), lack AS (
        SELECT m.top, m.member::pg_catalog.regclass::text AS place, what
          FROM member AS m,
               LATERAL (VALUES
                   (CASE WHEN m.relkind = 'f' THEN 'is a foreign table' END),
                   (CASE WHEN m.relkind <> 'f' AND NOT m.tells_rows
                         THEN 'has no trigger redis_track_row' END),
                   (CASE WHEN m.relkind <> 'f' AND NOT m.tells_truncate
                         THEN 'has no trigger redis_track_truncate' END),
                   (m.not_always || ' not ENABLE ALWAYS')) AS v(what)
         WHERE what IS NOT NULL
        UNION ALL
        SELECT top.oid, top.oid::pg_catalog.regclass::text,
               pg_catalog.format('has no column %I', name)
          FROM top, pg_catalog.unnest(top.columns) AS name
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = top.oid AND a.attname = name
                              AND a.attnum > 0 AND NOT a.attisdropped)
    )
    SELECT top.oid::pg_catalog.regclass AS relation,
           top.columns AS "by",
           (SELECT pg_catalog.sum(m.in_place)::integer FROM member AS m WHERE m.top = top.oid)
               AS triggers,
           (SELECT pg_catalog.string_agg(l.place || ' ' || l.what, '; ' ORDER BY l.place, l.what)
              FROM lack AS l WHERE l.top = top.oid) AS missing
      FROM top;

COMMENT ON VIEW redis_tracked IS 'tracked tables, and what keeps them from being exact';

CREATE FUNCTION redis_ddl_start() RETURNS event_trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_ddl_start';

CREATE FUNCTION redis_ddl_end() RETURNS event_trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_ddl_end';

CREATE FUNCTION redis_sql_drop() RETURNS event_trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_sql_drop';

CREATE EVENT TRIGGER pg_cache_ddl_start ON ddl_command_start
    EXECUTE FUNCTION redis_ddl_start();
CREATE EVENT TRIGGER pg_cache_ddl_end ON ddl_command_end
    EXECUTE FUNCTION redis_ddl_end();
CREATE EVENT TRIGGER pg_cache_sql_drop ON sql_drop
    EXECUTE FUNCTION redis_sql_drop();
ALTER EVENT TRIGGER pg_cache_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER pg_cache_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER pg_cache_sql_drop ENABLE ALWAYS;

-- What leaves with the commit -----------------------------------------------------------------------

CREATE FUNCTION redis_publish() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_publish';

COMMENT ON FUNCTION redis_publish() IS
    'trigger: publishes what happened to a row, after the commit';

CREATE FUNCTION redis_stream() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_stream';

COMMENT ON FUNCTION redis_stream() IS
    'trigger: appends what happened to a row to a stream, after the commit';

CREATE FUNCTION redis_store() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_store';

COMMENT ON FUNCTION redis_store() IS
    'trigger: keeps a row under a key of its own, from its commit on';

CREATE FUNCTION redis_job() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'redis_job';

COMMENT ON FUNCTION redis_job() IS
    'trigger: makes a job of what happened to a row, after the commit';

CREATE FUNCTION redis_publish(channel text, payload text) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_publish_text';

COMMENT ON FUNCTION redis_publish(text, text) IS 'publishes a message, after the commit';

CREATE FUNCTION redis_at_commit(cmd text, VARIADIC args text[] DEFAULT '{}') RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_at_commit';

COMMENT ON FUNCTION redis_at_commit(text, text[]) IS 'sends a command to Redis, after the commit';

-- Queues -------------------------------------------------------------------------------------------

CREATE FUNCTION redis_enqueue(
    queue text, payload jsonb, delay "any" DEFAULT NULL, id text DEFAULT NULL,
    format text DEFAULT 'stream') RETURNS text
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_enqueue';

COMMENT ON FUNCTION redis_enqueue(text, jsonb, "any", text, text) IS
    'puts a job on a queue, with the commit; returns its id';

CREATE FUNCTION redis_dequeue(
    queue text, max integer DEFAULT 1, wait "any" DEFAULT NULL, consumer text DEFAULT NULL,
    OUT id text, OUT payload jsonb, OUT attempt integer, OUT enqueued_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_dequeue';

COMMENT ON FUNCTION redis_dequeue(text, integer, "any", text) IS
    'takes jobs from a queue, at once: they are this worker''s for a while';

CREATE FUNCTION redis_ack(queue text, VARIADIC ids text[]) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_ack';

COMMENT ON FUNCTION redis_ack(text, text[]) IS
    'tells that jobs are done, with the commit of the transaction that did them';

CREATE FUNCTION redis_nack(
    queue text, id text, delay "any" DEFAULT NULL, error text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_nack';

COMMENT ON FUNCTION redis_nack(text, text, "any", text) IS
    'gives a job back, at once: it is handed out again later, or given up';

CREATE FUNCTION redis_requeue(queue text, id text) RETURNS boolean
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_requeue';

COMMENT ON FUNCTION redis_requeue(text, text) IS
    'puts a job back on its queue that was given up, at once';

CREATE FUNCTION redis_dead(
    queue text, max integer DEFAULT 100,
    OUT id text, OUT payload text, OUT attempts integer, OUT error text,
    OUT enqueued_at timestamptz, OUT died_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_dead';

COMMENT ON FUNCTION redis_dead(text, integer) IS 'the jobs of a queue that were given up';

CREATE FUNCTION redis_queues_json() RETURNS json
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_queues_json';

CREATE VIEW redis_queues AS
    SELECT * FROM pg_catalog.json_to_recordset(redis_queues_json())
               AS t(queue text, ready bigint, in_flight bigint, delayed bigint, dead bigint,
                    oldest_age interval);

COMMENT ON VIEW redis_queues IS 'how the queues of this database stand';

-- Whoever may put jobs on queues need not be able to take them.
REVOKE ALL ON redis_job_done FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_enqueue(text, jsonb, "any", text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_dequeue(text, integer, "any", text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_ack(text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_nack(text, text, "any", text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_requeue(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_dead(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_queues_json() FROM PUBLIC;

-- Commands that act at once --------------------------------------------------------------------------

CREATE FUNCTION redis_get(key text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_get';

COMMENT ON FUNCTION redis_get(text) IS 'the text under a key; null if there is no such key';

CREATE FUNCTION redis_set(key text, value text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_set';

CREATE FUNCTION redis_set(key text, value text, ttl "any") RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_set';

COMMENT ON FUNCTION redis_set(text, text) IS 'puts a text under a key, at once';
COMMENT ON FUNCTION redis_set(text, text, "any") IS
    'puts a text under a key, at once, for as long as ttl says';

CREATE FUNCTION redis_del(VARIADIC keys text[]) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_del';

COMMENT ON FUNCTION redis_del(text[]) IS
    'deletes keys, at once, and returns how many of them there were';

CREATE FUNCTION redis_incr(key text, "by" bigint DEFAULT 1) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_incr';

COMMENT ON FUNCTION redis_incr(text, bigint) IS
    'adds to the number under a key, at once, and returns the sum';

CREATE FUNCTION redis_expire(key text, ttl "any") RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_expire';

COMMENT ON FUNCTION redis_expire(text, "any") IS
    'gives a key a time to live, at once, and returns whether there is such a key';

CREATE FUNCTION redis_ttl(key text) RETURNS interval
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_ttl';

COMMENT ON FUNCTION redis_ttl(text) IS
    'how long a key lives on; null if there is no such key';

CREATE FUNCTION redis_command(cmd text, VARIADIC args text[] DEFAULT '{}') RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_command';

COMMENT ON FUNCTION redis_command(text, text[]) IS
    'sends a command to Redis, at once, and returns its reply';

REVOKE ALL ON FUNCTION redis_get(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_set(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_set(text, text, "any") FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_del(text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_incr(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_expire(text, "any") FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_ttl(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_command(text, text[]) FROM PUBLIC;

-- Running it -----------------------------------------------------------------------------------

CREATE FUNCTION redis_ping() RETURNS interval
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_ping';

COMMENT ON FUNCTION redis_ping() IS 'the time of one round trip to Redis';

CREATE FUNCTION redis_flush(pattern text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_flush';

COMMENT ON FUNCTION redis_flush(text) IS
    'deletes cached entries, at once: those of this database, or those that match a pattern';

-- Rows come out of C as JSON and get their shape here: no set-returning machinery of our own.
CREATE FUNCTION redis_health_json() RETURNS json
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_health_json';

CREATE FUNCTION redis_health(OUT "check" text, OUT ok boolean, OUT detail text)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE
    AS $$
        SELECT * FROM pg_catalog.json_to_recordset(@extschema@.redis_health_json())
                   AS t("check" text, ok boolean, detail text)
    $$;

COMMENT ON FUNCTION redis_health() IS 'what keeps the cache from working, if anything';

CREATE FUNCTION redis_repair_json() RETURNS json
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_repair_json';

CREATE FUNCTION redis_repair(OUT step text, OUT detail text)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE
    AS $$
        SELECT * FROM pg_catalog.json_to_recordset(@extschema@.redis_repair_json())
                   AS t(step text, detail text)
    $$;

COMMENT ON FUNCTION redis_repair() IS
    'starts the worker and waits until the cache of this database is usable';

CREATE FUNCTION redis_register(key_prefix text DEFAULT NULL, buckets integer DEFAULT NULL)
    RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_register';

COMMENT ON FUNCTION redis_register(text, integer) IS
    'changes what all backends must agree on, and begins a new generation: the cache is cold';

CREATE FUNCTION redis_wake() RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_wake';

COMMENT ON FUNCTION redis_wake() IS 'starts the worker of this database, if it does not run';

CREATE FUNCTION redis_verify_json(max integer) RETURNS json
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_verify_json';

CREATE FUNCTION redis_verify(
    max integer DEFAULT 1000, OUT key text, OUT exact boolean, OUT detail text)
    RETURNS SETOF record
    LANGUAGE sql VOLATILE
    AS $$
        SELECT * FROM pg_catalog.json_to_recordset(@extschema@.redis_verify_json(max))
                   AS t(key text, exact boolean, detail text)
    $$;

COMMENT ON FUNCTION redis_verify(integer) IS
    'recomputes live entries and returns those that differ: it must always be empty';

CREATE FUNCTION redis_stat_cached_json() RETURNS json
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_stat_cached_json';

CREATE VIEW redis_stat_cached AS
    SELECT * FROM pg_catalog.json_to_recordset(redis_stat_cached_json())
               AS t(key_family text, hits bigint, misses bigint, reasons jsonb, fills bigint,
                    bytes_read bigint, bytes_filled bigint,
                    hit_ms float8, query_ms float8, saved_ms float8, scope text);

COMMENT ON VIEW redis_stat_cached IS
    'what was read through the cache, by key family: by all backends or in this session';

CREATE FUNCTION redis_stat_commit_json() RETURNS json
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_stat_commit_json';

CREATE VIEW redis_stat_commit AS
    SELECT * FROM pg_catalog.json_to_recordset(redis_stat_commit_json())
               AS t(settled bigint, early bigint, owed bigint, tags bigint, keys bigint,
                    redis_ms float8, sent bigint, lost bigint, send_ms float8,
                    scope text);

COMMENT ON VIEW redis_stat_commit IS
    'what commits told Redis: those of all backends or of this session';

CREATE FUNCTION redis_stat_reset() RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'redis_stat_reset';

COMMENT ON FUNCTION redis_stat_reset() IS
    'begins the counters of this database and this session anew';

CREATE FUNCTION redis_rate_limit(
    key text, max integer, per "any", burst integer DEFAULT NULL, cost integer DEFAULT 1,
    OUT allowed boolean, OUT "limit" integer, OUT remaining integer,
    OUT retry_after interval, OUT reset_after interval)
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_rate_limit';

COMMENT ON FUNCTION redis_rate_limit(text, integer, "any", integer, integer) IS
    'counts a request at once, and says whether it is within max a period';
-- Sessions, in the layout of connect-redis: all of it acts at once.
CREATE FUNCTION redis_session_new(data jsonb) RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_session_new';

CREATE FUNCTION redis_session_new(data jsonb, ttl "any") RETURNS text
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_session_new';

CREATE FUNCTION redis_session_get(id text, touch boolean DEFAULT false) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_session_get';

CREATE FUNCTION redis_session_set(id text, data jsonb) RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_session_set';

CREATE FUNCTION redis_session_set(id text, data jsonb, ttl "any") RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_session_set';

CREATE FUNCTION redis_session_end(id text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'redis_session_end';

COMMENT ON FUNCTION redis_session_new(jsonb) IS
    'makes a session, at once, that lives as its cookie says or a day, and returns its id';
COMMENT ON FUNCTION redis_session_new(jsonb, "any") IS
    'makes a session, at once, and returns its id';
COMMENT ON FUNCTION redis_session_get(text, boolean) IS
    'reads a session, now; with touch its time to live begins anew';
COMMENT ON FUNCTION redis_session_set(text, jsonb) IS
    'changes a session that is there, at once';
COMMENT ON FUNCTION redis_session_set(text, jsonb, "any") IS
    'changes a session that is there, at once, and how long it lives';
COMMENT ON FUNCTION redis_session_end(text) IS
    'ends a session, at once, whatever becomes of the transaction';

REVOKE ALL ON FUNCTION redis_session_new(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_session_new(jsonb, "any") FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_session_get(text, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_session_set(text, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_session_set(text, jsonb, "any") FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_session_end(text) FROM PUBLIC;

-- Privileges: reading through the cache is for everybody, under the caller's own privileges; what
-- writes Redis or tells about the server is not.
REVOKE ALL ON redis_server, redis_alive, redis_debt, redis_outbox FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_ping() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_flush(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_health_json() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_health() FROM PUBLIC;
-- Whoever may attach it to a table of their own names keys to be deleted, of whatever program.
REVOKE ALL ON FUNCTION redis_invalidate() FROM PUBLIC;
-- The same goes for these: they write under names of the caller's choice.
REVOKE ALL ON FUNCTION redis_publish() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_stream() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_store() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_job() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_publish(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_at_commit(text, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_touch(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_repair_json() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_repair() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_register(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_wake() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_stat_reset() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_verify_json(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_verify(integer) FROM PUBLIC;
GRANT SELECT ON redis_stat_cached, redis_stat_commit, redis_tracked TO PUBLIC;

-- The worker registers this database with its Redis as soon as this is committed. Without a Redis,
-- or without a worker, every query is computed until there is one.
SELECT redis_wake();
