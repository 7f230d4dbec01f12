-- Changes an added user: Ledger.ChangeUser.
--
-- ARGV: 1 name, 2 concurrency or '', 3 disabled: '1', '0' or ''.
-- Answers 'changed' | 'unknown user'.
local key = user_key(ARGV[1])
if not is_added(ARGV[1]) then return 'unknown user' end
if ARGV[2] ~= '' then call('HSET', key, 'concurrency', ARGV[2]) end
if ARGV[3] ~= '' then call('HSET', key, 'disabled', ARGV[3]) end
changed('u' .. ARGV[1])
return 'changed'
