#!lua flags=allow-oom
-- Deletes a key that is to be set by a message of the outbox, unless somebody's token stands beside
-- it: whoever laid that has deleted the key, and his message comes behind. A question mark there is
-- nobody's token, but that of an image which may be old.
-- allow-oom: a full Redis must not keep an old value.
-- KEYS: value, sidecar, lease, token     returns 1 if it was deleted
if redis.call('EXISTS', KEYS[4]) == 1 and redis.pcall('GET', KEYS[4]) ~= '?' then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return 1
