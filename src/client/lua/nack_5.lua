#!lua flags=allow-oom
-- Gives a job back that was handed out: to be handed out again later, or given up after so many
-- attempts, or at once.
-- KEYS: stream, jobs, due, flight, dead
-- ARGV: id, delay in ms, or '' for the back-off, the first back-off in ms, the longest, attempts,
-- error, the dead to keep
-- returns 0 if it is nobody's, 1 if it will be handed out again, 2 if it is given up
local GROUP, STEP = 'pg_cache', 100
local id, attempts_max = ARGV[1], tonumber(ARGV[5])
local packed = redis.call('HGET', KEYS[2], id)
local record = packed and cmsgpack.unpack(packed)
if not record or record[1] ~= 'flight' then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[6] ~= '' then
  record[6] = ARGV[6]
end
redis.call('ZREM', KEYS[4], id)
if record[4] < attempts_max then
  local delay = tonumber(ARGV[2])
  if not delay then
    delay = math.min(ARGV[3] * 2 ^ math.min(record[4] - 1, 40), tonumber(ARGV[4]))
  end
  record[1] = 'due'
  redis.call('HSET', KEYS[2], id, cmsgpack.pack(record))
  redis.call('ZADD', KEYS[3], string.format('%.0f', now + delay), id)
  return 1
end
local entry = redis.call('XRANGE', KEYS[1], record[2], record[2])[1]
redis.call('XACK', KEYS[1], GROUP, record[2])
redis.call('XDEL', KEYS[1], record[2])
for place = 1, entry and #entry[2] or 0, 2 do
  if entry[2][place] == 'payload' then
    record[7] = entry[2][place + 1]
  end
end
record[1], record[2] = 'dead', ''
redis.call('HSET', KEYS[2], id, cmsgpack.pack(record))
redis.call('ZADD', KEYS[5], now, id)
local over = redis.call('ZCARD', KEYS[5]) - tonumber(ARGV[7])
if over > 0 then
  local oldest = redis.call('ZRANGE', KEYS[5], 0, math.min(over, STEP) - 1)
  redis.call('ZREM', KEYS[5], unpack(oldest))
  redis.call('HDEL', KEYS[2], unpack(oldest))
end
return 2
