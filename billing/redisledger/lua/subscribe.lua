-- Makes a subscription, or changes its end: Ledger.Subscribe.
--
-- ARGV: 1 user, 2 group, 3 the end, in nanoseconds, '' for none.
-- Answers 'subscribed' | 'unknown user'.
if not is_known(ARGV[1]) then return 'unknown user' end
call('HSET', subscription_key(ARGV[1], ARGV[2]), 'subscribed', '1', 'until', ARGV[3])
call('SADD', P .. 'subscriptions:' .. ARGV[1], ARGV[2])
changed('u' .. ARGV[1])
return 'subscribed'
