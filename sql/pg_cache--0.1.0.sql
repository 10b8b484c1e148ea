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
        pg_catalog.gen_random_uuid()::text || pg_catalog.gen_random_uuid()::text, '-', '')
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

CREATE TABLE redis_debt (
    tag bigint NOT NULL,
    xid xid8 NOT NULL,
    key text,
    PRIMARY KEY (tag, xid)
);

COMMENT ON TABLE redis_debt IS
    'what committed transactions could not settle with Redis: readers of it compute';

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
                    hit_ms float8, query_ms float8, saved_ms float8);

COMMENT ON VIEW redis_stat_cached IS 'what this backend read through the cache, by key family';

-- Privileges: reading through the cache is for everybody, under the caller's own privileges; what
-- writes Redis or tells about the server is not.
REVOKE ALL ON redis_server, redis_alive, redis_debt FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_ping() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_flush(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_health_json() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_health() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_repair_json() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_repair() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_register(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_wake() FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_verify_json(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION redis_verify(integer) FROM PUBLIC;
GRANT SELECT ON redis_stat_cached TO PUBLIC;

-- The worker registers this database with its Redis as soon as this is committed. Without a Redis,
-- or without a worker, every query is computed until there is one.
SELECT redis_wake();
