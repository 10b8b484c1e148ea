#!lua flags=allow-oom
-- Ends a lease that is still ours, so that a filler which failed does not make others wait for it.
-- allow-oom: it takes something away.
-- KEYS: lease     ARGV: token     returns 1 if it was ours
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
