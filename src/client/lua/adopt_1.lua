#!lua flags=allow-oom
-- Makes a stream the caller's: from here on no earlier caller of that scope appends to it, whatever
-- of its commands arrives late.
-- KEYS: record     ARGV: scope, nonce     returns the places of the scope's last batch, or nil
redis.call('HSET', KEYS[1], ARGV[1] .. ':claim', ARGV[2])
return redis.call('HGET', KEYS[1], ARGV[1] .. ':last')
