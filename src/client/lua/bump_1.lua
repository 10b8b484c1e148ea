#!lua flags=allow-oom
-- Gives each bucket its next version and puts the caller among its recent writers, before the
-- caller commits. Of the writers listed so far it keeps those that are still running for the
-- caller's snapshot: one that it drops is complete for everybody who sees the caller as complete.
-- Works on a table of any generation and makes a stub of one where there is none: what is bumped
-- must never be found unbumped. A version is made here, so a command that arrives twice or late
-- makes a new one, never an old one. allow-oom: a full Redis must not keep a writer from this.
-- After a crash PostgreSQL may give out transaction IDs again. A call that was sent before and
-- arrives after it would take a new owner of an ID for the one that its snapshot saw complete. So
-- it says of which generation it is, for each run of the server, and each timeline, makes one of
-- its own; and in a table of another it drops nobody. In a stub it may: whoever finds one owes. One
-- that read a generation of a former run makes a stub of the table, before late calls of that run
-- may drop it.
-- KEYS: tag table     ARGV: generation or '', xid, snapshot's xmax, its running xids by commas,
-- bucket fields …     returns the table's generation, or nil
local mine, xmax = ARGV[2], tonumber(ARGV[3])
if ARGV[1] == '' then
  redis.call('HDEL', KEYS[1], 'R')
end
local generation, may_drop
local running = {}
for xid in string.gmatch(ARGV[4], '%d+') do
  running[xid] = true
end
local function kept(list)
  local writers = mine
  for xid in string.gmatch(list, '[:,](%d+)') do
    if xid ~= mine and (not may_drop or running[xid] or tonumber(xid) >= xmax) then
      writers = writers .. ',' .. xid
    end
  end
  return writers
end
-- Two commands a step: each costs as much as the rest of the script.
local STEP = 1000
for first = 5, #ARGV, STEP do
  local last = math.min(first + STEP - 1, #ARGV)
  local found = redis.call('HMGET', KEYS[1], 'R', 'V', unpack(ARGV, first, last))
  generation = found[1]
  may_drop = not generation or generation == ARGV[1]
  local version = tonumber(found[2] or 0)
  local set = {}
  for place = 1, last - first + 1 do
    set[2 * place - 1] = ARGV[first + place - 1]
    set[2 * place] = string.format('%.0f:%s', version + place, kept(found[place + 2] or ''))
  end
  set[#set + 1] = 'V'
  set[#set + 1] = string.format('%.0f', version + last - first + 1)
  redis.call('HSET', KEYS[1], unpack(set))
end
return generation
