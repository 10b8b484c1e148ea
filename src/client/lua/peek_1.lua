#!lua flags=allow-oom
-- Reads a value if it is as long as we left it: a foreign one of another size, or of another type,
-- is not worth the transfer.
-- allow-oom: who sweeps a full Redis makes room.
-- KEYS: value     ARGV: length in bytes     returns the value, or nil
local is_string = redis.call('TYPE', KEYS[1]).ok == 'string'
if is_string and redis.call('STRLEN', KEYS[1]) == tonumber(ARGV[1]) then
  return redis.call('GET', KEYS[1])
end
return false
