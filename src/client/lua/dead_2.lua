#!lua flags=allow-oom
-- The jobs that were given up, the last first.
-- KEYS: jobs, dead     ARGV: count, the bytes to return
-- returns for each: id, payload, attempts, error, when it was enqueued and given up in ms; as many
-- as there is room for, of a payload that alone has none the beginning
local OVERHEAD_BYTES, HEAD_BYTES = 128, 1000
local bytes_max, used = tonumber(ARGV[2]), 0
local dead = {}
local ids = redis.call('ZREVRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')
for place = 1, #ids, 2 do
  local packed = redis.call('HGET', KEYS[1], ids[place])
  if packed then
    local record = cmsgpack.unpack(packed)
    local died, payload = tonumber(ids[place + 1]), record[7]
    if #payload > bytes_max then
      payload = string.sub(payload, 1, math.min(HEAD_BYTES, bytes_max))
    end
    used = used + #ids[place] + #payload + #record[6] + OVERHEAD_BYTES
    if used > bytes_max and #dead > 0 then
      break
    end
    dead[#dead + 1] = { ids[place], payload, record[4], record[6], record[5], died }
  end
end
return dead
