-- Removes an added user: Ledger.RemoveUser. His hash stays, for what is settled
-- later, and the ids of his credits; his name's next owner has the next number.
--
-- ARGV: 1 name, 2 the time, in nanoseconds. Answers 'removed' | 'unknown user'.
local name, key = ARGV[1], user_key(ARGV[1])
if not is_added(name) then return 'unknown user' end
for _, id in ipairs(call('SMEMBERS', P .. 'keys:' .. name)) do
  local gone = P .. 'key:' .. id
  call('HDEL', P .. 'keys', call('HGET', gone, 'digest'))
  call('DEL', gone, holds_key(gone))
end
for _, group in ipairs(call('SMEMBERS', P .. 'subscriptions:' .. name)) do
  local gone = subscription_key(name, group)
  call('DEL', gone, holds_key(gone))
end
call('DEL', P .. 'keys:' .. name, P .. 'subscriptions:' .. name, holds_key(key))
call('SREM', P .. 'users', name)
local rest = call('HGET', key, 'balance')
if string.byte(rest) == 45 then rest = string.sub(rest, 2) elseif rest ~= '0' then rest = '-' .. rest end
credit_of_own(name, 'removed:' .. call('HINCRBY', key, 'version', 1), rest, ARGV[2])
call('HSET', key, 'removed', '1', 'number', string.format('%.0f', number_of(name) + 1))
local opening = call('HGET', key, 'opening')
if opening then -- credited to him, so it must not be to the next
  call('HINCRBY', key, 'opened', opening)
end
call('HDEL', key, 'held', 'opening', 'source', 'concurrency', 'disabled')
changed('r' .. name)
return 'removed'
