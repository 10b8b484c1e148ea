//! Tables that are tracked, and what stands in for `redis_track` where the product has none.

use postgres::Client;

/// `redis_track(table, by)`.
#[track_caller]
pub fn track(client: &mut Client, table: &str, by: &str) {
    client.batch_execute(&format!("SELECT redis_track('{table}', '{by}')")).unwrap();
}

/// Makes `redis_track` unless the product does.
pub fn stand_in(client: &mut Client) {
    let sql = "SELECT to_regprocedure('redis_track(regclass,name[])') IS NULL";
    if client.query_one(sql, &[]).unwrap().get(0) {
        client.batch_execute(STAND_IN).unwrap();
    }
}

const STAND_IN: &str = "
CREATE FUNCTION redis_track_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION redis_track_truncate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION redis_invalidate() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION redis_depends(tag text) RETURNS boolean IMMUTABLE STRICT LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION redis_on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
ALTER EXTENSION pg_cache ADD FUNCTION redis_track_row();
ALTER EXTENSION pg_cache ADD FUNCTION redis_track_truncate();
ALTER EXTENSION pg_cache ADD FUNCTION redis_invalidate();
ALTER EXTENSION pg_cache ADD FUNCTION redis_depends(text);
ALTER EXTENSION pg_cache ADD FUNCTION redis_on_ddl();
CREATE EVENT TRIGGER pg_cache_ddl_start ON ddl_command_start EXECUTE FUNCTION redis_on_ddl();
CREATE EVENT TRIGGER pg_cache_ddl_end ON ddl_command_end EXECUTE FUNCTION redis_on_ddl();
CREATE EVENT TRIGGER pg_cache_sql_drop ON sql_drop EXECUTE FUNCTION redis_on_ddl();
ALTER EVENT TRIGGER pg_cache_ddl_start ENABLE ALWAYS;
ALTER EVENT TRIGGER pg_cache_ddl_end ENABLE ALWAYS;
ALTER EVENT TRIGGER pg_cache_sql_drop ENABLE ALWAYS;
CREATE FUNCTION redis_track(rel regclass, \"by\" name[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  args text := (SELECT string_agg(quote_literal(b), ',') FROM unnest(\"by\") b);
  one record;
BEGIN
  FOR one IN WITH RECURSIVE tree AS (
      SELECT oid, relispartition FROM pg_class WHERE oid = rel
      UNION ALL SELECT c.oid, c.relispartition FROM tree, pg_inherits i, pg_class c
       WHERE i.inhparent = tree.oid AND c.oid = i.inhrelid)
    SELECT oid::regclass AS name, relispartition AS cloned FROM tree
  LOOP
    IF NOT one.cloned OR one.name = rel THEN
      EXECUTE format('DROP TRIGGER IF EXISTS redis_track ON %s', one.name);
      EXECUTE format('CREATE TRIGGER redis_track AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH
        ROW EXECUTE FUNCTION redis_track_row(%s)', one.name, args);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER redis_track', one.name);
    EXECUTE format('DROP TRIGGER IF EXISTS redis_truncate ON %s', one.name);
    EXECUTE format('CREATE TRIGGER redis_truncate AFTER TRUNCATE ON %s EXECUTE FUNCTION
      redis_track_truncate()', one.name);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER redis_truncate', one.name);
  END LOOP;
END $$;
";
