-- Adds a user and credits what he begins with: Ledger.AddUser.
--
-- ARGV: 1 name, 2 amount, 3 concurrency, 4 the time, in nanoseconds.
-- Answers 'added' | 'user exists' | 'range': the balance can't hold it.
local name, key = ARGV[1], user_key(ARGV[1])
if is_added(name) then return 'user exists' end
if not has_room(name, ARGV[2]) then return 'range' end
call('HSETNX', key, 'balance', '0')
call('HSET', key, 'unlimited', '0', 'source', 'api', 'concurrency', ARGV[3])
call('HDEL', key, 'removed', 'disabled')
call('SADD', P .. 'users', name)
credit_of_own(name, 'added:' .. call('HINCRBY', key, 'version', 1), ARGV[2], ARGV[4])
changed('u' .. name)
return 'added'
