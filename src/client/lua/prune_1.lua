#!lua flags=allow-oom
-- Takes transaction IDs that were never assigned out of the lists, a few fields at a time: a table
-- from the future (a restored backup, a copy) would keep its readers computing until they are.
-- Only of fields that nobody bumped since the claim: their writers had their IDs before the claim,
-- so before the next one was read. In a field that was bumped since, an ID may have been assigned
-- meanwhile, and must stay.
-- KEYS: tag table     ARGV: nonce, version counter at the claim, next ID, cursor, count
-- returns the next cursor and how many such IDs stay; nil if the claim is not ours any more
if redis.call('HGET', KEYS[1], 'claim') ~= ARGV[1] then
  return false
end
local claimed, next_xid = tonumber(ARGV[2]), tonumber(ARGV[3])
local step = redis.call('HSCAN', KEYS[1], ARGV[4], 'COUNT', ARGV[5])
local stay = 0
for place = 1, #step[2], 2 do
  local version, list = string.match(step[2][place + 1], '^(%d+):([%d,]*)$')
  if version then
    local kept, dropped = {}, 0
    for xid in string.gmatch(list, '%d+') do
      if tonumber(xid) < next_xid then
        kept[#kept + 1] = xid
      else
        dropped = dropped + 1
      end
    end
    if dropped > 0 and tonumber(version) <= claimed then
      redis.call('HSET', KEYS[1], step[2][place], version .. ':' .. table.concat(kept, ','))
    else
      stay = stay + dropped
    end
  end
end
return { step[1], stay }
