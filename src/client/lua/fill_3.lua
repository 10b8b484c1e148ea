#!lua
-- Stores an entry if the lease still holds our token, and ends the lease.
-- A filler that was overtaken (its lease ran out, a writer deleted it) must not overwrite what came
-- after it; SET with PX and never SET then EXPIRE, so that no key can be left immortal.
-- KEYS: value, sidecar, lease     ARGV: token, value, sidecar, ttl in ms     returns 1 if stored
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
redis.call('DEL', KEYS[3])
return 1
