#!lua
-- Puts a job back on its queue that was given up: as a new entry, its attempts counted anew.
-- KEYS: stream, jobs, dead     ARGV: id     returns 1 if it was there
local packed = redis.call('HGET', KEYS[2], ARGV[1])
local record = packed and cmsgpack.unpack(packed)
if not record or record[1] ~= 'dead' then
  return 0
end
local entry = redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'payload', record[7])
redis.call('ZREM', KEYS[3], ARGV[1])
local ready = { 'ready', entry, record[3], 0, record[5], record[6], '', record[8] }
redis.call('HSET', KEYS[2], ARGV[1], cmsgpack.pack(ready))
return 1
