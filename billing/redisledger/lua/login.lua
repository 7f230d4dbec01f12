-- Finds a key and its owner: Ledger.Login. ARGV: the digest.
--
-- Answers how many changes there have been, and for a key that there is, its id,
-- its hash and its owner's profile.
local changes = call('GET', P .. 'changes') or '0'
local id = call('HGET', P .. 'keys', ARGV[1])
if not id then return {changes} end
local hash = call('HGETALL', P .. 'key:' .. id)
return {changes, id, hash, profile(call('HGET', P .. 'key:' .. id, 'user'))}
