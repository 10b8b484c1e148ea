#!lua
-- Reads a session and renews its time to live in the same step: by its cookie's originalMaxAge, as
-- the application does on each request, or else by the default. PEXPIRE revives nothing, and with
-- XX leaves alone what has no end (connect-redis' disableTTL).
-- KEYS: session     ARGV: default ttl in ms     returns the session, or nil
local found = redis.call('GET', KEYS[1])
if not found then
  return false
end
local ttl = ARGV[1]
local is_json, session = pcall(cjson.decode, found)
if is_json and type(session) == 'table' and type(session.cookie) == 'table' then
  local age = tonumber(session.cookie.originalMaxAge)
  if age and age >= 1 then
    ttl = string.format('%.0f', math.min(math.floor(age), 253402300799999))
  end
end
redis.call('PEXPIRE', KEYS[1], ttl, 'XX')
return found
