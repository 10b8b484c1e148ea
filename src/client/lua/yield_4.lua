#!lua flags=allow-oom
-- Deletes a key that is to be set by a message of the outbox, unless somebody's token stands beside
-- it: whoever laid that has deleted the key, and his message comes behind.
-- allow-oom: a full Redis must not keep an old value.
-- KEYS: value, sidecar, lease, token     returns 1 if it was deleted
if redis.call('EXISTS', KEYS[4]) == 1 then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
