-- Removes an added user: Ledger.RemoveUser. His hash stays, for what is settled
-- later, and for his name's next owner.
--
-- ARGV: 1 name, 2 the time, in nanoseconds. Answers 'removed' | 'stranger'.
local name, key = ARGV[1], user_key(ARGV[1])
if not is_added(name) then return 'stranger' end
for _, id in ipairs(call('SMEMBERS', P .. 'keys:' .. name)) do
  local gone = P .. 'key:' .. id
  call('HDEL', P .. 'keys', call('HGET', gone, 'digest'))
  call('DEL', gone, holds_key(gone))
end
for _, group in ipairs(call('SMEMBERS', P .. 'subscriptions:' .. name)) do
  local gone = subscription_key(name, group)
  call('DEL', gone, holds_key(gone))
end
call('DEL', P .. 'keys:' .. name, P .. 'subscriptions:' .. name)
call('SREM', P .. 'users', name)
call('HSET', key, 'removed', '1')
local rest = call('HGET', key, 'balance')
if string.byte(rest) == 45 then rest = string.sub(rest, 2) elseif rest ~= '0' then rest = '-' .. rest end
credit_of_own(name, 'removed:' .. call('HINCRBY', key, 'version', 1), rest, ARGV[2])
changed('r' .. name)
return 'removed'
