#!lua
-- Decides on one request by the generic cell rate algorithm. What is kept is when the debt of the
-- limit is paid: whole microseconds, and a rest in units of 1 / max. The numbers come divided, so
-- that here they are added and compared only: each stays below 2^53, where Lua counts exactly.
-- The time is this server's, and the expiry is set with the value. A refused or free request
-- writes nothing. Who asks under another max pays a rest as a whole microsecond.
-- KEYS: limit     ARGV: max, cost in whole microseconds and rest, capacity likewise
-- returns 1 if allowed, and the debt after it in whole microseconds and rest
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local max = tonumber(ARGV[1])
local debt, rest = 0, 0
local found = redis.call('GET', KEYS[1])
if found then
  local at, part, of = string.match(found, '^(%d+) (%d+) (%d+)$')
  at, part, of = tonumber(at), tonumber(part), tonumber(of)
  if not at or at > 9007199254740992 or part >= of then
    return redis.error_reply('WRONGTYPE No rate limit stands under this key')
  end
  debt, rest = at - now, part
  if of ~= max and rest > 0 then
    debt, rest = debt + 1, 0
  end
  if debt < 0 then
    debt, rest = 0, 0
  end
end
local sum, sum_rest = debt + ARGV[2], rest + ARGV[3]
if sum_rest >= max then
  sum, sum_rest = sum + 1, sum_rest - max
end
local capacity, capacity_rest = tonumber(ARGV[4]), tonumber(ARGV[5])
if sum > capacity or (sum == capacity and sum_rest > capacity_rest) then
  return { 0, debt, rest }
end
if ARGV[2] ~= '0' or ARGV[3] ~= '0' then
  local at = now + sum
  local value = string.format('%.0f %.0f %.0f', at, sum_rest, max)
  redis.call('SET', KEYS[1], value, 'PXAT', string.format('%.0f', math.ceil(at / 1000) + 1))
end
return { 1, sum, sum_rest }
