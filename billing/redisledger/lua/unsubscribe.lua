-- Ends a subscription and forgets its windows: Ledger.Unsubscribe.
--
-- ARGV: 1 user, 2 group. Answers 'ended' | 'none'.
local key = subscription_key(ARGV[1], ARGV[2])
if call('HEXISTS', key, 'subscribed') == 0 then return 'none' end
call('DEL', key, holds_key(key))
call('SREM', P .. 'subscriptions:' .. ARGV[1], ARGV[2])
changed('u' .. ARGV[1])
return 'ended'
