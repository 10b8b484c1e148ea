#!lua flags=allow-oom
-- Sets generations apart whose entries were swept, in one step, so that none is lost: no sweep
-- begins for their sake, and each one that does looks for what was filled behind the last.
-- KEYS: generations, swept ones     ARGV: how many swept ones stay, generation, …
local now = redis.call('TIME')[1]
for place = 2, #ARGV do
  redis.call('SREM', KEYS[1], ARGV[place])
  redis.call('ZADD', KEYS[2], now, ARGV[place])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[1])
