#!lua flags=allow-oom
-- Makes the tag table that of a generation, iff the claim is still ours: then no bump was lost
-- since. The lists stay.
-- KEYS: tag table     ARGV: nonce, generation, base xid     returns 1 if made, 0 if not
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'R', ARGV[2], 'B', ARGV[3])
redis.call('HDEL', KEYS[1], 'claim')
return 1
