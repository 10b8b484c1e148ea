#!lua
-- Appends events to a stream, and keeps beside it which they were, if the stream is still the
-- caller's. One step: whoever finds the places finds the events, and the other way round.
-- KEYS: stream, record
-- ARGV: scope, nonce, 'add' or 'replace' the places, length or '', places by blanks,
-- 'event' and events … or 'job' and, for each, id and payload …
-- returns how many were appended, and the error that stopped it; -1 if the stream is another's
local last = ARGV[1] .. ':last'
if redis.call('HGET', KEYS[2], ARGV[1] .. ':claim') ~= ARGV[2] then
  return { -1 }
end
local count, refused = 0, nil
local place = 7
while place <= #ARGV do
  local added
  if ARGV[6] == 'job' then
    added = redis.pcall('XADD', KEYS[1], '*', 'id', ARGV[place], 'payload', ARGV[place + 1])
    place = place + 1
  elseif ARGV[4] == '' then
    added = redis.pcall('XADD', KEYS[1], '*', 'event', ARGV[place])
  else
    added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[place])
  end
  if type(added) == 'table' then
    refused = added.err
    break
  end
  count = count + 1
  place = place + 1
end
if count > 0 then
  local places = ARGV[5]
  if refused then
    local kept = {}
    for place in string.gmatch(places, '%S+') do
      if #kept < count then
        kept[#kept + 1] = place
      end
    end
    places = table.concat(kept, ' ')
  end
  if ARGV[3] == 'add' then
    places = (redis.call('HGET', KEYS[2], last) or '') .. ' ' .. places
  end
  redis.call('HSET', KEYS[2], last, places)
end
return { count, refused }
