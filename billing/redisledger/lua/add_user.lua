-- Adds a user and credits what he begins with: Ledger.AddUser.
--
-- ARGV: 1 name, 2 amount, 3 concurrency, 4 the time, in nanoseconds, 5 the number that
-- he must get, '0' for any.
-- Answers 'added' | 'user exists' | 'range': the balance can't hold it, and his number.
local name, key = ARGV[1], user_key(ARGV[1])
local number = number_of(name)
if is_added(name) or ARGV[5] ~= '0' and ARGV[5] ~= number then return {'user exists', number} end
if not has_room(name, ARGV[2]) then return {'range', number} end
call('HSETNX', key, 'balance', '0')
call('HSET', key, 'source', 'api', 'concurrency', ARGV[3])
call('HDEL', key, 'removed', 'disabled')
call('SADD', P .. 'users', name)
credit_of_own(name, 'added:' .. call('HINCRBY', key, 'version', 1), ARGV[2], ARGV[4])
changed('u' .. name)
return {'added', number}
