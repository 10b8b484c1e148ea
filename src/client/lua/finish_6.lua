#!lua flags=allow-oom
-- Ends jobs that are done: out of the stream, with all that stands beside it. Of an id only the
-- job of that birth: a later one of the same name is another job. A named id is remembered for a
-- while, so that it is not added again.
-- KEYS: stream, jobs, due, flight, dead, done     ARGV: how long in ms, and for each job: id, birth
-- returns how many were there
local STEP = 100
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = 0
-- Whatever somebody else put there is theirs; the job is done all the same.
local is_stream = redis.call('TYPE', KEYS[1]).ok == 'stream'
for place = 2, #ARGV, 2 do
  local id = ARGV[place]
  local packed = redis.call('HGET', KEYS[2], id)
  local record = packed and cmsgpack.unpack(packed)
  if record and record[3] == ARGV[place + 1] then
    if record[2] ~= '' and is_stream then
      redis.call('XACK', KEYS[1], 'pg_cache', record[2])
      redis.call('XDEL', KEYS[1], record[2])
    end
    redis.call('HDEL', KEYS[2], id)
    redis.call('ZREM', KEYS[3], id)
    redis.call('ZREM', KEYS[4], id)
    redis.call('ZREM', KEYS[5], id)
    if record[8] == '1' and tonumber(ARGV[1]) > 0 then
      redis.call('ZADD', KEYS[6], now + ARGV[1], id)
    end
    count = count + 1
  end
end
-- More may go than can have come.
for round = 0, #ARGV, STEP do
  local old = redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, STEP)
  if #old == 0 then
    break
  end
  redis.call('ZREM', KEYS[6], unpack(old))
end
return count
