#!lua flags=allow-oom
-- Leaves in a record no places but these, if the stream is still the caller's: whoever adopted it
-- since may have appended.
-- KEYS: record     ARGV: scope, nonce, places by blanks     returns 1 if done
if redis.call('HGET', KEYS[1], ARGV[1] .. ':claim') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1] .. ':last', ARGV[3])
return 1
