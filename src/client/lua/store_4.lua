#!lua
-- Sets a key if the token beside it is still the caller's, and takes the token away: whoever wrote
-- the row later has put another one there, and this one's value is old.
-- KEYS: value, token, sidecar, lease
-- ARGV: token, ttl in ms or '', 't' text or 'h' hash or 'n' nothing, the text or fields and values …
-- returns 1 if it was set
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if ARGV[3] == 't' then
  redis.call('SET', KEYS[1], ARGV[4])
elseif ARGV[3] == 'h' then
  for field = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[field], ARGV[field + 1])
  end
end
if ARGV[3] ~= 'n' and ARGV[2] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
