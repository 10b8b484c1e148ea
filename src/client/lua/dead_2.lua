#!lua flags=allow-oom
-- The jobs that were given up, the last first.
-- KEYS: jobs, dead     ARGV: count
-- returns for each: id, payload, attempts, error, when it was enqueued and given up in ms
local dead = {}
local ids = redis.call('ZREVRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')
for place = 1, #ids, 2 do
  local packed = redis.call('HGET', KEYS[1], ids[place])
  if packed then
    local record = cmsgpack.unpack(packed)
    local died = tonumber(ids[place + 1])
    dead[#dead + 1] = { ids[place], record[7], record[4], record[6], record[5], died }
  end
end
return dead
