#!lua
-- Replaces a session that is still there, and only if it still is what was read.
-- A session that was ended meanwhile must not come back, and what another writer put there must
-- not be lost. A session without an end (connect-redis' disableTTL) stays so unless a ttl was asked
-- for.
-- KEYS: session     ARGV: text that was read, new text, ttl in ms, 1 if it was asked for
-- returns 1 if stored, 0 if it changed, -1 if it is gone
local found = redis.call('GET', KEYS[1])
if not found then
  return -1
end
if found ~= ARGV[1] then
  return 0
end
if ARGV[4] == '0' and redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
