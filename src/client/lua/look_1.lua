#!lua flags=allow-oom
-- Which job of an id was handed out and is not done: its birth, or '' if there is none.
-- KEYS: jobs     ARGV: ids …     returns births
local births = {}
for place, id in ipairs(ARGV) do
  local packed = redis.call('HGET', KEYS[1], id)
  local record = packed and cmsgpack.unpack(packed)
  births[place] = record and record[4] > 0 and record[3] or ''
end
return births
