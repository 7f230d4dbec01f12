-- Deletes a key: Ledger.RevokeKey. ARGV: its id. Answers 'revoked' | 'unknown key'.
local key = P .. 'key:' .. ARGV[1]
local was = call('HMGET', key, 'digest', 'user')
if not was[1] then return 'unknown key' end
call('DEL', key, holds_key(key))
call('HDEL', P .. 'keys', was[1])
call('SREM', P .. 'keys:' .. was[2], ARGV[1])
changed('k' .. was[1])
return 'revoked'
