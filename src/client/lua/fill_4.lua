#!lua
-- Stores an entry if the lease still holds our token, and ends the lease.
-- A filler that was overtaken (its lease ran out, a writer deleted it) must not overwrite what came
-- after it. What no sidecar stands beside belongs to another program: anybody may call
-- redis_cached, so it must not be able to replace a session, a queue or a counter.
-- SET with PX and never SET then EXPIRE, so that no key can be left immortal. The recipe tells how
-- to compute the entry again; without one, that of the entry before must not stay.
-- KEYS: value, sidecar, lease, recipe     ARGV: token, value, sidecar, ttl in ms, recipe or ''
-- returns 1 if stored, 0 if overtaken, -1 if the key is not ours to replace
if redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[3])
local found = redis.call('TYPE', KEYS[1]).ok
if found ~= 'none' and (found ~= 'string' or redis.call('EXISTS', KEYS[2]) == 0) then
  return -1
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
if ARGV[5] == '' then
  redis.call('DEL', KEYS[4])
else
  redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[4])
end
return 1
