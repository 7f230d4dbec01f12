-- Adds a gateway key: Ledger.AddKey.
--
-- ARGV: 1 id, 2 digest, 3 user, 4... the hash's other fields and their values.
-- Answers 'added' | 'key exists' | 'unknown user'.
local id, digest, name = ARGV[1], ARGV[2], ARGV[3]
if not is_known(name) then return 'unknown user' end
if call('EXISTS', P .. 'key:' .. id) == 1 or call('HEXISTS', P .. 'keys', digest) == 1 then return 'key exists' end
call('HSET', P .. 'key:' .. id, 'digest', digest, 'user', name, unpack(ARGV, 4))
call('HSET', P .. 'keys', digest, id)
call('SADD', P .. 'keys:' .. name, id)
changed('k' .. digest)
return 'added'
