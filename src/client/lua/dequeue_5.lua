#!lua flags=allow-oom
-- Hands jobs out: first those whose time has run out in other hands, then those of the stream, to
-- which what was due is appended. What was handed out too often is given up instead. A job for
-- which the reply has no room stays where it is, and comes first in the next call.
-- KEYS: stream, jobs, due, flight, dead     ARGV: consumer, count, ms until it is handed out again,
-- attempts, the dead to keep, the bytes to return
-- returns the newest entry of the stream, ms until something is due or -1, how many were put away
-- that are no jobs, '1' if there is such a queue, and for each job: id, payload, attempt, when it
-- was enqueued in ms, birth
local GROUP, STEP, ROUNDS_MAX, JOB_OVERHEAD_BYTES = 'pg_cache', 100, 20, 128
local CONSUMER_IDLE_MS, CONSUMERS, FORGET_MAX = 60000, 100, 1000
local consumer, count, visibility = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local attempts_max, dead_max, bytes_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE Operation against a key holding the wrong kind of value')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A record: state, entry, birth, attempts, when, error, payload, whether it is named.
local function get(id)
  local packed = redis.call('HGET', KEYS[2], id)
  return packed and cmsgpack.unpack(packed)
end
local function set(id, record)
  redis.call('HSET', KEYS[2], id, cmsgpack.pack(record))
end
local function drop(id)
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('ZREM', KEYS[4], id)
end
local function bury(id, record, payload)
  redis.call('XACK', KEYS[1], GROUP, record[2])
  redis.call('XDEL', KEYS[1], record[2])
  redis.call('ZREM', KEYS[4], id)
  if record[6] == '' then
    record[6] = 'not acknowledged in time'
  end
  set(id, { 'dead', '', record[3], record[4], record[5], record[6], payload, record[8] })
  redis.call('ZADD', KEYS[5], now, id)
  local over = redis.call('ZCARD', KEYS[5]) - dead_max
  if over > 0 then
    local oldest = redis.call('ZRANGE', KEYS[5], 0, math.min(over, STEP) - 1)
    redis.call('ZREM', KEYS[5], unpack(oldest))
    redis.call('HDEL', KEYS[2], unpack(oldest))
  end
end
local function fields(entry)
  local found = {}
  for place = 1, #entry[2], 2 do
    found[entry[2][place]] = entry[2][place + 1]
  end
  return found
end

local jobs, used, passed, is_full = {}, 0, 0, false
-- Whether there is room left for a job; the first one has as much as there is.
local function fits(id, payload)
  is_full = is_full or #jobs > 0 and used + #id + #payload + JOB_OVERHEAD_BYTES > bytes_max
  return not is_full
end
local function hand_out(id, record, payload)
  record[1], record[4] = 'flight', record[4] + 1
  set(id, record)
  redis.call('ZADD', KEYS[4], now + visibility, id)
  jobs[#jobs + 1] = { id, payload, record[4], record[5], record[3] }
  used = used + #id + #payload + JOB_OVERHEAD_BYTES
end
local function too_large(payload)
  return 'the payload has ' .. #payload .. ' bytes, more than pg_cache.value_bytes_max'
end

local function about(found)
  local pairs_of = {}
  for at = 1, #found, 2 do
    pairs_of[found[at]] = found[at + 1]
  end
  return pairs_of
end
local function group()
  for place, found in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local one = about(found)
    if one.name == GROUP then
      return one
    end
  end
end

local has_group = kind == 'stream' and group() ~= nil
if kind == 'stream' and not has_group then
  -- Somebody else's stream, which would be emptied.
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if first and not fields(first).payload then
    return redis.error_reply('NOQUEUE The first entry of the stream has no payload')
  end
end

for place, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, STEP)) do
  local record = get(id)
  redis.call('ZREM', KEYS[3], id)
  if record and record[2] ~= '' then
    -- It has been out before, and its entry is still there.
    redis.call('ZADD', KEYS[4], 0, id)
  elseif record then
    record[1] = 'ready'
    record[2] = redis.call('XADD', KEYS[1], '*', 'id', id, 'payload', record[7])
    record[7] = ''
    set(id, record)
  end
end

-- A name that is asked for and holds nothing stays free.
local exists = redis.call('EXISTS', KEYS[1]) == 1
if exists then
  if not has_group then
    redis.call('XGROUP', 'CREATE', KEYS[1], GROUP, '0')
  end
  local is_new = redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], GROUP, consumer) == 1
  local consumers = is_new and group().consumers or 0
  -- Sessions come and go: whoever has nothing in hand and has not asked for long is forgotten. The
  -- more there are, the longer it takes and the more seldom it is done.
  if consumers > CONSUMERS and tonumber(time[2]) % consumers < CONSUMERS then
    local forgotten = 0
    for place, found in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], GROUP)) do
      local one = about(found)
      if one.pending == 0 and one.idle > CONSUMER_IDLE_MS and one.name ~= consumer
        and forgotten < FORGET_MAX then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, one.name)
        forgotten = forgotten + 1
      end
    end
  end
end

for place, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, count)) do
  local record = get(id)
  local entry = exists and record
    and redis.call('XCLAIM', KEYS[1], GROUP, consumer, 0, record[2])[1]
  local payload = entry and fields(entry).payload or ''
  if not entry then
    -- Somebody deleted the entry, and with it the job.
    drop(id)
    passed = passed + 1
  elseif record[4] >= attempts_max or #payload > bytes_max then
    if record[4] < attempts_max then
      record[6] = too_large(payload)
    end
    bury(id, record, payload)
    passed = passed + 1
  elseif fits(id, payload) then
    hand_out(id, record, payload)
  else
    break
  end
end

-- Up to where the group has read: known once an entry was put away or handed out.
local last = exists and #jobs > 0 and group()['last-delivered-id']
local function take(entry, found)
  local id = found.id or entry[1]
  local record = get(id)
  local fresh = { 'ready', entry[1], entry[1], 0, tonumber(string.match(entry[1], '^%d+')), '', '',
    '0' }
  if id ~= '' and record and record[2] ~= entry[1] then
    -- A second entry of one id is no second job.
    redis.call('XACK', KEYS[1], GROUP, entry[1])
    redis.call('XDEL', KEYS[1], entry[1])
  elseif not found.payload then
    fresh[6] = 'the entry has no payload'
    bury(entry[1], fresh, cjson.encode(found))
  elseif id == '' or #id > 256 then
    fresh[6] = id == '' and 'the id is empty' or 'the id is too long'
    bury(entry[1], fresh, found.payload)
  elseif #found.payload > bytes_max then
    record = record or fresh
    record[6] = too_large(found.payload)
    bury(id, record, found.payload)
  elseif fits(id, found.payload) then
    return hand_out(id, record or fresh, found.payload)
  end
  passed = passed + (is_full and 0 or 1)
end

-- What is read is copied: at first a few, and then as many as are likely to fit.
local step = 8
for round = 1, ROUNDS_MAX do
  local read = exists and not is_full and #jobs < count and redis.call('XREADGROUP', 'GROUP', GROUP,
    consumer, 'COUNT', math.min(count - #jobs, step), 'STREAMS', KEYS[1], '>')
  if not read then
    break
  end
  local bytes = 0
  for place, entry in ipairs(read[1][2]) do
    local found = fields(entry)
    bytes = bytes + #(found.payload or '') + JOB_OVERHEAD_BYTES
    if not is_full then
      take(entry, found)
    end
    if is_full then
      redis.call('XACK', KEYS[1], GROUP, entry[1])
    else
      last = entry[1]
    end
  end
  if is_full then
    redis.call('XGROUP', 'SETID', KEYS[1], GROUP, last)
  end
  local likely = (bytes_max - used) * #read[1][2] / bytes
  step = math.max(1, math.min(step * 4, math.ceil(likely)))
end

local newest, due_in = '0-0', -1
if #jobs == 0 then
  if exists then
    newest = about(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']
  end
  for place, set in ipairs({ KEYS[3], KEYS[4] }) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first then
      local left = math.max(first - now, 0)
      due_in = due_in < 0 and left or math.min(due_in, left)
    end
  end
end
local is_queue = exists or redis.call('EXISTS', KEYS[3], KEYS[5]) > 0
return { newest, due_in, passed, is_queue and 1 or 0, jobs }
