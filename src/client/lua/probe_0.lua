#!lua
-- Does nothing. Without flags: a server that is full, read-only, loading, or otherwise in the way
-- of whoever writes refuses to run it, in the words in which it refuses them.
-- KEYS: none     returns 1
return 1
