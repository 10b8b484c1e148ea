#!lua
-- Sets a key after the commit that stores it, iff that transaction's token still stands beside it:
-- a later writer of the key has put its own there, or taken it away, before it committed, so
-- whoever is late, or dies, can never leave the older image. A transaction that does not know
-- whether its token was laid puts a question mark before it: then it may set the key too if
-- nobody's stands there, and leaves a question mark there for a day. For what it sets may be old:
-- the token of a later one may have been taken away by somebody who then rolled back, or was lost.
-- So while the mark stands, what the outbox brings, with a plus before the token, is set too: there
-- the later one comes later. What is sent past the outbox has no order, and is not. Nor does a
-- deletion leave a mark where none was: what is sent past the outbox may be newer.
-- What was filled meanwhile under this key goes with the key.
-- KEYS: value, sidecar, lease, token     ARGV: token, 'text' | 'hash' | 'nothing', ttl in ms or '',
-- the value, or fields and values     returns 1 if done; if overtaken, the token that stands there
-- or 0
local standing, token = redis.call('GET', KEYS[4]), ARGV[1]
local way, is_marked = string.sub(token, 1, 1), standing == '?'
if way == '?' or way == '+' then
  token = string.sub(token, 2)
end
local is_free = is_marked and way == '+' or way == '?' and (is_marked or not standing)
if standing ~= token and not is_free then
  return standing or 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
if is_free and (is_marked or ARGV[2] ~= 'nothing') then
  redis.call('SET', KEYS[4], '?', 'EX', 86400)
end
if ARGV[2] == 'text' then
  if ARGV[3] == '' then
    redis.call('SET', KEYS[1], ARGV[4])
  else
    redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
  end
elseif ARGV[2] == 'hash' and #ARGV > 3 then
  redis.call('HSET', KEYS[1], unpack(ARGV, 4))
  if ARGV[3] ~= '' then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
  end
end
return 1
