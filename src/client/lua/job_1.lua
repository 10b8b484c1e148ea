#!lua
-- Adds a job under the id that its maker was told. One that is there already came with an answer
-- that was lost. A stream takes no id below its last: then the job gets another, and bears its own.
-- KEYS: queue     ARGV: id, payload     returns the id of the entry
local added = redis.pcall('XADD', KEYS[1], ARGV[1], 'id', ARGV[1], 'payload', ARGV[2])
if type(added) ~= 'table' then
  return added
end
if not string.find(added.err, 'equal or smaller', 1, true) then
  return added
end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) > 0 then
  return ARGV[1]
end
return redis.call('XADD', KEYS[1], '*', 'id', ARGV[1], 'payload', ARGV[2])
