#!lua flags=allow-oom
-- How a queue stands.
-- KEYS: stream, due, flight, dead
-- returns how many jobs are ready, in flight, delayed and dead, and the age in ms of the oldest
-- that is ready or -1; nil if there is no such queue
local GROUP = 'pg_cache'
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' and redis.call('EXISTS', unpack(KEYS, 2)) == 0 then
  return false
end
local length, pending, next_id = 0, 0, '-'
if redis.call('TYPE', KEYS[1]).ok == 'stream' then
  length = redis.call('XLEN', KEYS[1])
  for place, found in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local about = {}
    for at = 1, #found, 2 do
      about[found[at]] = found[at + 1]
    end
    if about.name == GROUP then
      pending, next_id = about.pending, '(' .. about['last-delivered-id']
    end
  end
end
local age = -1
local oldest = length > 0 and redis.call('XRANGE', KEYS[1], next_id, '+', 'COUNT', 1)[1]
if oldest then
  local time = redis.call('TIME')
  local made = tonumber(string.match(oldest[1], '^%d+'))
  age = math.max(time[1] * 1000 + math.floor(time[2] / 1000) - made, 0)
end
return {
  math.max(length - pending, 0),
  redis.call('ZCARD', KEYS[3]),
  redis.call('ZCARD', KEYS[2]),
  redis.call('ZCARD', KEYS[4]),
  age,
}
