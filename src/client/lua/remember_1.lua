#!lua flags=allow-oom
-- Remembers that a generation has been, so that a later one may sweep its entries away.
-- KEYS: generations     ARGV: generation     returns how many are remembered
redis.call('SADD', KEYS[1], ARGV[1])
return redis.call('SCARD', KEYS[1])
