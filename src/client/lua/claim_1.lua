#!lua flags=allow-oom
-- Says that the worker is about to make the tag table. A loss of the table takes the claim away,
-- and whoever bumps from here on finds a table, if only a stub of one: the lists stay as they are.
-- KEYS: tag table     ARGV: nonce     returns the version counter
redis.call('HSET', KEYS[1], 'claim', ARGV[1])
return redis.call('HGET', KEYS[1], 'V') or '0'
