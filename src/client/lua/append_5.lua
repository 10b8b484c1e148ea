#!lua
-- Appends events to a stream, and keeps beside it which they were, if the stream is still the
-- caller's. One step: whoever finds the places finds the events, and the other way round.
-- A job that waits, or that somebody named, gets a record: a name that is known adds nothing.
-- Of several calls that are sent together one may be refused in passing: what is to come behind it
-- waits, or it would be overtaken.
-- KEYS: stream, record, and of a queue: jobs, due, done
-- ARGV: scope, nonce, 'add' or 'replace' the places, length or '', places by blanks, the place that
-- must stand last in the record or '',
-- 'event' and events … or 'job' and, for each, id and payload … or 'enqueue' and, for each, id,
-- payload, delay in ms, '1' if it is named …
-- returns how many were appended, and the error that stopped it; -1 if the stream is another's, -2
-- if what goes before is not there
local last = ARGV[1] .. ':last'
if redis.call('HGET', KEYS[2], ARGV[1] .. ':claim') ~= ARGV[2] then
  return { -1 }
end
-- No pattern: one that ends with the text is tried at each of its letters.
local before = ' ' .. (redis.call('HGET', KEYS[2], last) or '')
if ARGV[6] ~= '' and string.sub(before, -#ARGV[6] - 1) ~= ' ' .. ARGV[6] then
  return { -2 }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A record: state, entry, birth, attempts, when, error, payload, whether it is named.
local function keep(id, state, entry, birth, payload, named)
  local record = cmsgpack.pack({ state, entry, birth, 0, now, '', payload, named })
  redis.call('HSET', KEYS[3], id, record)
end
-- A record whose entry somebody deleted, before any worker had it, is of no job.
local function is_known(id)
  local packed = redis.call('HGET', KEYS[3], id)
  if not packed then
    return tonumber(redis.call('ZSCORE', KEYS[5], id) or 0) > now
  end
  local record = cmsgpack.unpack(packed)
  return record[1] ~= 'ready' or #redis.call('XRANGE', KEYS[1], record[2], record[2]) > 0
end
local function enqueue(id, payload, delay, named)
  if named == '1' and is_known(id) then
    return 'known'
  end
  if tonumber(delay) > 0 then
    local birth = time[1] .. '.' .. time[2]
    keep(id, 'due', '', birth, payload, named)
    return redis.call('ZADD', KEYS[4], now + delay, id)
  end
  local added = redis.pcall('XADD', KEYS[1], '*', 'id', id, 'payload', payload)
  if type(added) ~= 'table' then
    keep(id, 'ready', added, added, '', named)
  end
  return added
end
local steps = { event = 1, job = 2, enqueue = 4 }
local count, refused = 0, nil
for place = 8, #ARGV, steps[ARGV[7]] do
  local added
  if ARGV[7] == 'job' then
    added = redis.pcall('XADD', KEYS[1], '*', 'id', ARGV[place], 'payload', ARGV[place + 1])
  elseif ARGV[7] == 'enqueue' then
    added = enqueue(unpack(ARGV, place, place + 3))
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
