#!lua flags=allow-oom
-- Deletes an entry if its sidecar is what it was, and its value too if that is what it was: another
-- may stand there by now, of another type too. Its hash is in the sidecar, which Redis cannot
-- compute: so the value comes back.
-- allow-oom: who sweeps a full Redis makes room.
-- KEYS: value, sidecar, lease, recipe     ARGV: sidecar, value or ''     returns 1 if done
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
if ARGV[2] == '' or redis.call('TYPE', KEYS[1]).ok ~= 'string' then
  return 1
end
if redis.call('STRLEN', KEYS[1]) == #ARGV[2] and redis.call('GET', KEYS[1]) == ARGV[2] then
  redis.call('UNLINK', KEYS[1])
end
return 1
