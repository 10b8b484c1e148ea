#!lua flags=allow-oom
-- Hands jobs out: first those whose time has run out in other hands, then those of the stream, to
-- which what was due is appended. What was handed out too often is given up instead.
-- KEYS: stream, jobs, due, flight, dead     ARGV: consumer, count, ms until it is handed out again,
-- attempts, the dead to keep
-- returns the newest entry of the stream, ms until something is due or -1, and for each job: id,
-- payload, attempt, when it was enqueued in ms, birth
local GROUP, STEP, CONSUMER_IDLE_MS = 'pg_cache', 100, 3600000
local consumer, count, visibility = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local attempts_max, dead_max = tonumber(ARGV[4]), tonumber(ARGV[5])
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

local jobs = {}
local function hand_out(id, record, payload)
  record[1], record[4] = 'flight', record[4] + 1
  set(id, record)
  redis.call('ZADD', KEYS[4], now + visibility, id)
  jobs[#jobs + 1] = { id, payload, record[4], record[5], record[3] }
end

local known = redis.pcall('XGROUP', 'CREATECONSUMER', KEYS[1], GROUP, consumer)
if type(known) == 'table' then
  redis.call('XGROUP', 'CREATE', KEYS[1], GROUP, '0', 'MKSTREAM')
  known = redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], GROUP, consumer)
end
if known == 1 then
  -- Sessions come and go: whoever has nothing in hand and has not asked for long is forgotten.
  for place, found in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], GROUP)) do
    local about = {}
    for at = 1, #found, 2 do
      about[found[at]] = found[at + 1]
    end
    if about.pending == 0 and about.idle > CONSUMER_IDLE_MS and about.name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, about.name)
    end
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

for place, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, count)) do
  local record = get(id)
  local entry = record
    and redis.call('XCLAIM', KEYS[1], GROUP, consumer, 0, record[2])[1]
  if not entry then
    -- Somebody deleted the entry, and with it the job.
    drop(id)
  elseif record[4] >= attempts_max then
    bury(id, record, fields(entry).payload or '')
  else
    hand_out(id, record, fields(entry).payload or '')
  end
end

for round = 1, 10 do
  local read = #jobs < count and redis.call('XREADGROUP', 'GROUP', GROUP, consumer,
    'COUNT', count - #jobs, 'STREAMS', KEYS[1], '>')
  if not read then
    break
  end
  for place, entry in ipairs(read[1][2]) do
    -- An entry that was deleted has no fields.
    local found = entry[2] and fields(entry) or {}
    local id = found.id or entry[1]
    local record = get(id) or { 'ready', entry[1], entry[1], 0,
      tonumber(string.match(entry[1], '^%d+')), '', '', '0' }
    if not entry[2] or record[2] ~= entry[1] then
      -- A second entry of one id is no second job.
      redis.call('XACK', KEYS[1], GROUP, entry[1])
      redis.call('XDEL', KEYS[1], entry[1])
    elseif found.payload and #id <= 256 then
      hand_out(id, record, found.payload)
    else
      record[6] = found.payload and 'the id is too long' or 'the entry has no payload'
      bury(string.sub(id, 1, 256), record, found.payload or '')
    end
  end
end

local newest, due_in = '0-0', -1
if #jobs == 0 then
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #about, 2 do
    if about[at] == 'last-generated-id' then
      newest = about[at + 1]
    end
  end
  for place, set in ipairs({ KEYS[3], KEYS[4] }) do
    local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
    if first then
      local left = math.max(first - now, 0)
      due_in = due_in < 0 and left or math.min(due_in, left)
    end
  end
end
return { newest, due_in, jobs }
