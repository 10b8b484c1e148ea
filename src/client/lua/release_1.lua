#!lua
-- Ends a lease that is still ours, so that a filler which failed does not make others wait for it.
-- KEYS: lease     ARGV: token     returns 1 if it was ours
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
