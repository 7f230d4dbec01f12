-- Gives a user's money: Ledger.Balance.
--
-- KEYS: 1 the user, 2 its holds. Answers balance, unlimited, version, what is set
-- aside of it, and whether the user was removed.
sweep(KEYS[1], KEYS[2])
return redis.call('HMGET', KEYS[1], 'balance', 'unlimited', 'version', 'held', 'removed')
