-- The SQL surface: a change of a name, an argument, a mark or a privilege is a change for users.
\pset format unaligned
\pset null (null)
SELECT proname || '(' || pg_get_function_arguments(p.oid) || ')' AS function,
       pg_get_function_result(p.oid) AS result,
       provolatile AS volatility, proparallel AS parallel, proisstrict AS strict,
       prosecdef AS definer, has_function_privilege('public', p.oid, 'EXECUTE') AS public
FROM pg_proc p
JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_cache'
ORDER BY proname COLLATE "C", pronargs, p.oid;
SELECT c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
       has_table_privilege('public', c.oid, 'SELECT') AS public
FROM pg_class c
JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_cache'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
ORDER BY c.relname COLLATE "C", a.attnum;
SELECT extversion, extrelocatable, extconfig FROM pg_extension WHERE extname = 'pg_cache';
-- The settings are there once the library is loaded.
SELECT count(*) FROM redis_stat_cached;
SELECT name, setting, unit, context, vartype, min_val, max_val FROM pg_settings
WHERE name LIKE 'pg_cache.%' AND name NOT IN ('pg_cache.url', 'pg_cache.fault_point')
ORDER BY name COLLATE "C";
SELECT name, short_desc <> '' AS described FROM pg_settings
WHERE name LIKE 'pg_cache.%' AND name <> 'pg_cache.fault_point' ORDER BY name COLLATE "C";
